"""Windows: whatever lengths, padding, frames, prefixes, segments and overlap, kept states line up with the tokens."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cached_ds.windows.cut import Document, cut, documents_in, find_runs, holes_between, lay_out_passes, runs_of
from helpers import oracle


@dataclass(frozen=True)
class Case:
    """A padded batch and how to cut it."""

    window: int
    overlap: int
    head: int
    tail: int
    prefix: list[int]
    segments: list[tuple[int, ...]]
    mask: torch.Tensor
    windows_per_pass: int
    multiple: int

    def documents(self):
        found = documents_in(find_runs(self.mask))
        rows = zip(found, self.prefix, self.segments, strict=True)
        return [dataclasses.replace(d, head=self.head + p, tail=self.tail, segments=s) for d, p, s in rows]

    def windows(self):
        return [w for d in self.documents() for w in cut(d, window=self.window, overlap=self.overlap)]

    def passes(self):
        return list(lay_out_passes(self.windows(), windows_per_pass=self.windows_per_pass, multiple=self.multiple))


def rows_of(layout):
    return [row for span in layout.spans for row in range(span.start, span.stop)]


def padded(lengths, sides):
    """Attention mask [B, L]; each document is padded on its side."""
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, (length, side) in enumerate(zip(lengths, sides, strict=True)):
        mask[row, slice(0, length) if side == "right" else slice(mask.shape[1] - length, None)] = 1
    return mask


@st.composite
def lengths_of(draw, *, window, overlap, head, tail):
    """One token, less than a window, exactly k windows, or ragged."""
    room = window - head - tail
    step = room - 2 * overlap
    exact = head + tail + room + step * draw(st.integers(0, 4))
    return draw(st.one_of(st.just(1), st.integers(1, window), st.just(exact), st.integers(1, 5 * window)))


@st.composite
def segments_of(draw, content):
    """None, or lengths that make up the content."""
    if content < 1 or draw(st.booleans()):
        return ()
    ends = sorted(draw(st.sets(st.integers(1, content), max_size=5)) | {content})
    return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))


@st.composite
def cases(draw):
    head, tail, overlap = draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.integers(0, 3))
    batch = draw(st.integers(1, 3))
    prefix = draw(st.lists(st.integers(0, 3), min_size=batch, max_size=batch))
    window = draw(st.integers(1, 9)) + head + tail + max(prefix) + 2 * overlap
    shape = {"window": window, "overlap": overlap, "tail": tail}
    lengths = [draw(lengths_of(head=head + prefix[row], **shape)) for row in range(batch)]
    segments = [draw(segments_of(n - head - prefix[row] - tail)) for row, n in enumerate(lengths)]
    sides = draw(st.lists(st.sampled_from(["left", "right"]), min_size=batch, max_size=batch))
    grouping = {"windows_per_pass": draw(st.integers(1, 4)), "multiple": draw(st.sampled_from([1, 4]))}
    return Case(head=head, prefix=prefix, segments=segments, mask=padded(lengths, sides), **shape, **grouping)


@given(cases())
def test_every_token_is_kept_exactly_once_and_read_where_its_state_is_kept(case):
    rows = [row for layout in case.passes() for row in rows_of(layout)]
    assert sorted(rows) == case.mask.flatten().nonzero().flatten().tolist()
    for layout in case.passes():
        assert layout.tokens.flatten()[layout.slots].tolist() == rows_of(layout)
        assert all(one.stop != other.start for one, other in itertools.pairwise(layout.spans)), (
            "touching slices are one"
        )


@given(cases())
def test_passes_read_no_padding_and_hold_no_empty_window(case):
    for layout in case.passes():
        read = layout.tokens[layout.tokens >= 0]
        assert case.mask.flatten()[read].all()
        assert (layout.tokens >= 0).any(dim=1).all()
        lengths = (layout.tokens >= 0).sum(dim=1)
        assert lengths.max() <= case.window
        width = layout.tokens.shape[1]
        assert width % case.multiple == 0 and width - lengths.max() < case.multiple
        assert layout.full == bool((lengths == width).all())


@given(cases())
def test_windows_are_full_and_framed(case):
    for document in case.documents():
        windows = cut(document, window=case.window, overlap=case.overlap)
        full = sum(len(window) == case.window for window in windows)
        assert full >= len(windows) - max(len(document.segments), 1)
        if document.length <= case.window and not document.segments:
            assert len(windows) == 1
            continue
        tokens = list(range(document.start, document.start + document.length))
        for window in windows:
            positions = window.positions().tolist()
            assert positions[: document.head] == tokens[: document.head]
            assert positions[len(positions) - document.tail :] == tokens[len(tokens) - document.tail :]


@given(cases())
def test_windows_are_those_of_the_oracle(case):
    length = case.mask.shape[1]
    lengths = {"prefix": case.prefix, "segments": case.segments}
    expected = oracle.windows_of_batch(
        case.mask, window=case.window, head=case.head, tail=case.tail, overlap=case.overlap, **lengths
    )
    found = [window.positions().tolist() for window in case.windows()]
    kept = [window.positions()[window.first : window.last].tolist() for window in case.windows()]
    assert found == [[row * length + token for token in read] for row, read, _ in expected]
    assert kept == [[row * length + token for token in states] for row, _, states in expected]


@given(cases())
def test_passes_hold_every_window_once_longest_first(case):
    passes = case.passes()
    assert sum(len(layout.tokens) for layout in passes) == len(case.windows())
    assert len({layout.index for layout in passes}) == len(passes)
    widths = [layout.tokens.shape[1] for layout in passes]
    assert widths == sorted(widths, reverse=True)


@given(cases())
def test_a_pass_ends_when_it_is_full_or_the_next_window_is_less_than_half_as_long(case):
    lengths = [(layout.tokens >= 0).sum(dim=1).tolist() for layout in case.passes()]
    assert all(2 * min(each) >= max(each) and len(each) <= case.windows_per_pass for each in lengths)
    for one, following in itertools.pairwise(lengths):
        assert len(one) == case.windows_per_pass or 2 * following[0] < one[0]


def test_a_pass_gathers_values_and_fills_empty_slots():
    ids = torch.tensor([[10, 11, 12, 99], [20, 21, 99, 99]])
    windows = [w for d in find_runs((ids < 99).long()) for w in cut(d, window=4, overlap=0)]
    (layout,) = lay_out_passes(windows, windows_per_pass=2)
    assert layout.gather(ids, -7).tolist() == [[10, 11, 12], [20, 21, -7]]
    assert not layout.full


def test_an_empty_row_is_refused():
    with pytest.raises(ValueError, match="document 1 has no tokens; remove empty documents"):
        find_runs(torch.tensor([[1, 1], [0, 0]]))


def test_a_document_reaches_from_its_first_token_to_its_last():
    runs = find_runs(torch.tensor([[0, 1, 0, 0, 1, 1], [1, 1, 0, 1, 0, 1], [1, 1, 0, 0, 0, 0]]))
    assert [(run.row, run.start, run.length) for run in runs] == [
        (0, 1, 1), (0, 4, 2), (1, 6, 2), (1, 9, 1), (1, 11, 1), (2, 12, 2)
    ]  # fmt: skip
    assert [(each.row, each.start, each.length) for each in documents_in(runs)] == [(0, 1, 5), (1, 6, 6), (2, 12, 2)]
    assert holes_between(runs).tolist() == [2, 3, 8, 10]


@pytest.mark.parametrize("overlap", [0, 1])
def test_a_window_without_room_for_content_is_refused(overlap):
    document = Document(row=3, start=0, length=20, head=6 - 2 * overlap, tail=2)
    with pytest.raises(ValueError, match=f"window=8 leaves no room for document 3: .* overlap={overlap}; use a larger"):
        cut(document, window=8, overlap=overlap)


def test_a_segment_begins_a_window_and_a_longer_one_is_cut():
    document = Document(row=0, start=0, length=14, head=3, tail=1, segments=(3, 7))
    windows = cut(document, window=8, overlap=0)
    assert [[*window.body] for window in windows] == [[3, 4, 5], [6, 7, 8, 9], [10, 11, 12]]
    kept = [window.positions()[window.first : window.last].tolist() for window in windows]
    assert kept == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13]]


@pytest.mark.parametrize("segments", [(3, 6), (3, 8), (12, -2)], ids=str)
def test_segments_that_do_not_make_up_the_content_are_refused(segments):
    document = Document(row=3, start=0, length=14, head=3, tail=1, segments=segments)
    with pytest.raises(ValueError, match="of document 3 are refused; allowed are lengths with the sum 10, the tokens"):
        cut(document, window=8, overlap=0)


def test_a_mask_is_read_once_and_again_after_it_was_changed():
    mask = torch.tensor([[1, 1, 1, 0]])
    assert runs_of(mask) is runs_of(mask)
    mask[0, 3] = 1
    assert [document.length for document in runs_of(mask)] == [4]
