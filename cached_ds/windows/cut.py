"""Windows: how whole documents are cut, and how the states of the windows become the states of the documents.

Pure functions on the host: no model, no torch.distributed. A document `<s> content </s>` is cut into overlapping or
adjacent slices of its content; every window repeats the document's frame (its head: BOS and prefix; its tail: EOS):

    document   <s> P P | a b c d e f g h i j | </s>          window = 8, overlap = 1
    window 0   <s> P P   a b c d               </s>          keeps <s> P P a b c
    window 1   <s> P P       c d e f           </s>          keeps         d e
    ...                                                      the last window keeps </s>

So the kept states line up one to one with the tokens that came in, and the caller's attention mask stays valid.

A document may come in segments, such as the scenes of a screenplay. Each then begins a window of its own; one that is
longer than a window is cut as above, and overlap does not reach from one segment into another:

    segments = 3, 7, window = 8, overlap = 0
    window 0   <s> P P   a b c                 </s>          keeps <s> P P a b c
    window 1   <s> P P         d e f g h       </s>          keeps               d e f g h
    window 2   <s> P P                   i j   </s>          keeps                         i j </s>

Shapes: B documents, L padded source length, N windows of one pass, w window length, K kept states of one pass.
Source: CachED (arXiv 2501.01805) section 3 for the frames; SLED (TACL 2023) for context on both sides of a slice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Document:
    """One row of a padded batch: where its tokens lie in the flattened batch [B * L].

    Attributes:
        row: its number in the batch.
        start: position of its first token.
        length: number of its tokens.
        head: number of tokens at its beginning that every window repeats.
        tail: number of tokens at its end that every window repeats.
        segments: lengths of the segments of its content, one after another; none: it is cut as one.
    """

    row: int
    start: int
    length: int
    head: int = 0
    tail: int = 0
    segments: tuple[int, ...] = ()


@dataclass(frozen=True)
class Window:
    """Positions in the flattened batch that one window reads, and the slots [first, last) whose states it keeps."""

    head: range
    body: range
    tail: range
    first: int
    last: int

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.head) + len(self.body) + len(self.tail)

    @property
    def start(self) -> int:
        """Position of the first kept state; the others follow without a gap."""
        return self.head.start if self.first < len(self.head) else self.body.start + self.first - len(self.head)

    def positions(self) -> Tensor:
        """Positions in the flattened batch, one per slot of the window."""
        parts = [torch.arange(part.start, part.stop) for part in (self.head, self.body, self.tail) if part]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


@dataclass(frozen=True)
class PassLayout:
    """Where the windows of one pass lie in the batch.

    Attributes:
        index: number of the first window among all windows of the batch; it selects the random stream.
        tokens: [N, w] positions in the flattened batch; a slot beyond the end of its window holds -1.
        slots: [K] which of the N * w states are kept.
        spans: where they go in the flattened batch, in order; adjacent ones are merged.
    """

    index: int
    tokens: Tensor
    slots: Tensor
    spans: tuple[slice, ...]

    @property
    def full(self) -> bool:
        """Whether every slot holds a token, so that no mask is needed."""
        return bool((self.tokens >= 0).all())

    def gather(self, values: Tensor, fill: int) -> Tensor:
        """Values [B, L] of the batch, on the host, as [N, w]; empty slots get `fill`."""
        return values.reshape(-1)[self.tokens].masked_fill(self.tokens < 0, fill)


def find_runs(attention_mask: Tensor) -> list[Document]:
    """The runs of real tokens of a batch, in order: one for each row, more where tokens between others are masked.

    Args:
        attention_mask: [B, L] on the host.

    Raises:
        ValueError: a row has no token.
    """
    length, runs = attention_mask.shape[1], []
    for row, real in enumerate(attention_mask != 0):
        at = real.nonzero().flatten()
        if len(at) == 0:
            raise ValueError(f"attention_mask: document {row} has no tokens; remove empty documents from the batch")
        ends = (at.diff() > 1).nonzero().flatten() + 1
        runs += [Document(row, row * length + int(run[0]), len(run)) for run in at.tensor_split(ends)]
    return runs


def runs_of(attention_mask: Tensor) -> list[Document]:
    """`find_runs` of a mask on any device, remembered on the tensor, since encoder and decoder both ask.

    Raises:
        ValueError: what `find_runs` refuses.
    """
    if attention_mask.is_inference():  # such a tensor does not tell whether it was changed since
        return find_runs(attention_mask.cpu())
    version, runs = getattr(attention_mask, "_cached_runs", (None, []))
    if version != attention_mask._version:
        runs = find_runs(attention_mask.cpu())
        attention_mask._cached_runs = attention_mask._version, runs  # type: ignore[attr-defined]
    return runs


def documents_in(runs: Sequence[Document]) -> list[Document]:
    """The documents of these runs, one for each row, from its first real token to its last."""
    rows = [list(group) for _, group in itertools.groupby(runs, key=lambda run: run.row)]
    return [Document(row[0].row, row[0].start, row[-1].start + row[-1].length - row[0].start) for row in rows]


def holes_between(runs: Sequence[Document]) -> Tensor:
    """Positions in the flattened batch of the masked tokens inside documents."""
    pairs = [(run, after) for run, after in itertools.pairwise(runs) if run.row == after.row]
    holes = [torch.arange(run.start + run.length, after.start) for run, after in pairs]
    return torch.cat(holes) if holes else torch.empty(0, dtype=torch.long)


def whole_rows(rows: int, length: int) -> list[Document]:
    """The documents of a batch [rows, length] without padding."""
    return [Document(row=row, start=row * length, length=length) for row in range(rows)]


def cut(document: Document, *, window: int, overlap: int) -> list[Window]:
    """Cut one document into windows of at most `window` tokens with `overlap` tokens of context on each side.

    Raises:
        ValueError: head, tail and context leave no room for content; segments that do not make up the content.
    """
    begin, end = document.start, document.start + document.length
    if document.length <= window and not document.segments:
        return [Window(range(0), range(begin, end), range(0), 0, document.length)]
    head, tail = range(begin, begin + document.head), range(end - document.tail, end)
    content = range(head.stop, tail.start)
    room = window - len(head) - len(tail)
    step = room - 2 * overlap
    if step < 1:
        raise ValueError(
            f"window={window} leaves no room for document {document.row}: {len(head)} tokens of head (prefix included),"
            f" {len(tail)} of tail and 2 x overlap={overlap}; use a larger window, or a shorter prefix or overlap"
        )
    pieces = [
        (segment[at : at + room], segment)
        for segment in _segments(document, content)
        for at in range(0, max(len(segment) - room, 0) + step, step)
    ]
    return [_slice(head, body, tail, content, segment, overlap) for body, segment in pieces]


def _segments(document: Document, content: range) -> list[range]:
    """The content, segment by segment."""
    lengths = document.segments or (len(content),)
    if min(lengths) < 0 or sum(lengths) != len(content):
        raise ValueError(
            f"segment_lengths={list(lengths)} of document {document.row} are refused; allowed are lengths with the sum "
            f"{len(content)}, the tokens between its {document.head} of head (prefix included) and {document.tail} of "
            "tail"
        )
    ends = itertools.accumulate(lengths)
    return [content[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _slice(head: range, body: range, tail: range, content: range, segment: range, overlap: int) -> Window:
    """One window of a long document: the first keeps the head, the last keeps the tail, none keeps context."""
    before = overlap if body.start > segment.start else 0
    after = overlap if body.stop < segment.stop else 0
    first = 0 if body.start == content.start else len(head) + before
    last = len(head) + len(body) + (len(tail) if body.stop == content.stop else -after)
    return Window(head, body, tail, first, last)


def lay_out_passes(
    windows: Sequence[Window], *, windows_per_pass: int, multiple: int = 1, index: int = 0
) -> Iterator[PassLayout]:
    """Group windows, numbered from `index` on, into passes.

    The longest come first, so that full windows need no padding and no mask. A pass is as wide as its longest window,
    rounded up to a multiple of `multiple`. A window of less than half that width begins the next pass: padding it would
    cost more than another pass does, and the mask slows all the others.
    """
    for numbers in _grouped([len(window) for window in windows], windows_per_pass):
        width = math.ceil(len(windows[numbers[0]]) / multiple) * multiple
        yield _lay_out_pass(index + numbers[0], [windows[number] for number in numbers], width)


def _grouped(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """The numbers of the windows of each pass."""
    groups: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        if not groups or len(groups[-1]) == limit or 2 * lengths[number] < lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(number)
    return groups


def _lay_out_pass(index: int, windows: Sequence[Window], width: int) -> PassLayout:
    tokens = torch.full((len(windows), width), -1)
    for row, window in zip(tokens, windows, strict=True):
        row[: len(window)] = window.positions()
    kept = [torch.arange(n * width + each.first, n * width + each.last) for n, each in enumerate(windows)]
    return PassLayout(index, tokens, slots=torch.cat(kept), spans=spans_of_windows(windows))


def spans_of_windows(windows: Sequence[Window]) -> tuple[slice, ...]:
    """Where the kept states of the windows go; those of one window are adjacent in its document."""
    spans: list[slice] = []
    for window in windows:
        begin, stop = window.start, window.start + window.last - window.first
        if spans and spans[-1].stop == begin:
            begin = spans.pop().start
        spans.append(slice(begin, stop))
    return tuple(spans)
