"""Shares: which windows each rank of a document group encodes, and where their states lie in its part of H.

The windows of a batch, in order, are parted into one run for each rank, with about the same number of tokens. A rank's
H holds the states of its run only, one after another and without padding; if its run is empty, H has no rows.

    windows      0 1 2 3 4 | 5 6 7 8 9        of documents A (0 to 6) and B (7 to 9)
    H of rank 0  A A A A A
    H of rank 1              A A B B B

Shapes: B documents, L padded source length, R rows of a rank's H.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from cached_ds.document_parallel.mesh import DocumentGroup
from cached_ds.windows.cut import Window, spans_of_windows


@dataclass(frozen=True)
class Share:
    """One rank's part of a batch.

    Attributes:
        group: the ranks that have the other parts.
        shape: (B, L) of the batch.
        first: number of its first window among all windows of the batch.
        windows: its own, in order.
        spans: positions in the flattened batch [B * L] whose states it holds, in order; adjacent ones are merged.
        starts: the row of its H at which each span begins, and last their number, R.
    """

    group: DocumentGroup
    shape: tuple[int, int]
    first: int
    windows: Sequence[Window]
    spans: tuple[slice, ...]
    starts: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """Rows of this rank's H, R."""
        return self.starts[-1]

    def rows(self, span: slice) -> slice:
        """The rows of this rank's H for positions that one of its spans covers."""
        number = bisect_right(self.spans, span.start, key=lambda own: own.start) - 1
        shift = self.starts[number] - self.spans[number].start
        return slice(span.start + shift, span.stop + shift)

    def mark(self, states: Tensor) -> None:
        """Remember on H [1, R, D] whose share it is; `share_of` finds it, after the encoder has handed it on."""
        states.document_share = self  # type: ignore[attr-defined]

    def parts(self, span: slice) -> list[slice]:
        """The parts of any positions that are this rank's."""
        cut = [slice(max(span.start, own.start), min(span.stop, own.stop)) for own in self.spans]
        return [part for part in cut if part.start < part.stop]


def share_of(states: Tensor) -> Share | None:
    """The share that H is; None: it is no share, or not the tensor that the encoder has returned."""
    return getattr(states, "document_share", None)


def deal(windows: Sequence[Window], group: DocumentGroup, shape: tuple[int, int]) -> Share:
    """This rank's share of the windows of a batch of shape (B, L)."""
    owners = owners_of([len(window) for window in windows], group.size)
    own = [number for number, owner in enumerate(owners) if owner == group.rank]
    mine = [windows[number] for number in own]
    spans = spans_of_windows(mine)
    starts = itertools.accumulate((span.stop - span.start for span in spans), initial=0)
    return Share(group, shape, own[0] if own else 0, mine, spans, tuple(starts))


def owners_of(lengths: Sequence[int], size: int) -> list[int]:
    """The rank of each window, never falling: the one into whose equal part of all tokens the window's middle falls.

    So no rank has more than its part and one window; with windows of one length none has one more than another needs.
    """
    total, ends = sum(lengths), itertools.accumulate(lengths)
    return [(2 * end - length) * size // (2 * total) for end, length in zip(ends, lengths, strict=True)]
