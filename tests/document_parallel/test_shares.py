"""Shares: windows are dealt evenly, and every position of the documents is some rank's, at one row of its H."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cached_ds.document_parallel.mesh import DocumentGroup
from cached_ds.document_parallel.shares import deal, owners_of
from cached_ds.windows.cut import cut, whole_rows

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(lengths, st.integers(1, 8))
def test_no_rank_has_more_than_its_part_and_a_window(lengths, size):
    owners = owners_of(lengths, size)
    assert owners == sorted(owners)
    assert set(owners) <= set(range(size))
    tokens = [
        sum(length for length, owner in zip(lengths, owners, strict=True) if owner == rank) for rank in range(size)
    ]
    assert max(tokens) < sum(lengths) / size + max(lengths)


@given(st.integers(1, 60), st.integers(1, 8))
def test_windows_of_one_length_are_dealt_as_evenly_as_can_be(count, size):
    owners = owners_of([16] * count, size)
    assert max(owners.count(rank) for rank in range(size)) == -(-count // size)


def shares_of(documents, length, size):
    windows = [window for document in documents for window in cut(document, window=8, overlap=1)]
    shape = (len(documents), length)
    return windows, [deal(windows, DocumentGroup(size, rank), shape) for rank in range(size)]


@given(st.integers(1, 3), st.integers(1, 50), st.integers(1, 5))
def test_every_position_is_one_row_of_one_rank(rows, length, size):
    windows, shares = shares_of(whole_rows(rows, length), length, size)
    assert [window for share in shares for window in share.windows] == windows
    held = []
    for share in shares:
        ranges = [share.rows(span) for span in share.spans]
        assert [row for each in ranges for row in range(each.start, each.stop)] == list(range(share.num_rows))
        held += [at for span in share.spans for at in range(span.start, span.stop)]
        assert all(windows[share.first + number] is window for number, window in enumerate(share.windows))
    assert held == list(range(rows * length))


@pytest.mark.parametrize("span", [slice(0, 20), slice(3, 5), slice(11, 37)])
def test_parts_of_a_tile_make_up_the_tile(span):
    _, shares = shares_of(whole_rows(2, 20), 20, 3)
    parts = list(itertools.chain.from_iterable(share.parts(span) for share in shares))
    assert [at for part in parts for at in range(part.start, part.stop)] == list(range(40))[span]
