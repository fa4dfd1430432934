"""Passes: from a padded batch to the windows that the encoder will read together on its device.

The batch is copied to the host once. All decisions are made there (cut.py), so none of them waits for the device.

Shapes: B documents, L padded source length, N windows of a pass, w window length, K kept states of a pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig

from cached_ds.models.families import Family, FramePattern
from cached_ds.settings.config import MIN_WINDOW, CachedConfig
from cached_ds.windows.cut import (
    Document,
    PassLayout,
    Window,
    cut,
    documents_in,
    holes_between,
    lay_out_passes,
    runs_of,
    whole_rows,
)


@dataclass(frozen=True)
class Batch:
    """The encoder's arguments on the host, and where the documents lie in them.

    Attributes:
        input_ids: [B, L].
        documents: one for each row.
        holes: positions in the flattened batch of masked tokens inside documents: read at their places, never attended.
        prefix_lengths: [B], tokens that every window repeats after the document's first special tokens.
        segments: the lengths of each document's segments; none: it is cut as one.
        global_attention_mask: [B, L].
    """

    input_ids: Tensor
    documents: list[Document]
    holes: Tensor
    prefix_lengths: Tensor
    segments: list[tuple[int, ...]]
    global_attention_mask: Tensor

    @classmethod
    def on_host(
        cls,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        prefix: Tensor | None,
        segments: Tensor | None,
        global_mask: Tensor | None,
    ) -> Batch:
        """Copy the arguments to the host, and fill in those that are missing.

        Raises:
            ValueError: a row without tokens, or segments that are not [B, S].
        """
        ids = input_ids.cpu()
        runs = whole_rows(*ids.shape) if attention_mask is None else runs_of(attention_mask)
        return cls(
            input_ids=ids,
            documents=documents_in(runs),
            holes=holes_between(runs),
            prefix_lengths=torch.zeros(len(ids), dtype=torch.long) if prefix is None else prefix.cpu(),
            segments=[()] * len(ids) if segments is None else _segments(segments, rows=len(ids)),
            global_attention_mask=torch.zeros_like(ids) if global_mask is None else global_mask.cpu(),
        )

    def as_bytes(self) -> bytes:
        """All that was given, so that two batches can be compared."""
        tensors = (self.input_ids, self.holes, self.prefix_lengths, self.global_attention_mask)
        return (
            b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)
            + repr((tuple(self.input_ids.shape), self.documents, self.segments)).encode()
        )


@dataclass(frozen=True)
class EncoderPass:
    """One pass on the device.

    Attributes:
        index: number of its first window among all windows of the batch; it selects the random stream.
        inputs: the encoder's keyword arguments [N, w]; a mask may be [N, 1, 1, w].
        slots: [K] which of the N * w states are kept.
        spans: where they go in the flattened batch.
    """

    index: int
    inputs: dict[str, Tensor]
    slots: Tensor
    spans: tuple[slice, ...]

    @property
    def num_windows(self) -> int:
        """Number of windows, N."""
        return len(self.inputs["input_ids"])

    @property
    def width(self) -> int:
        """Tokens of a padded window, w."""
        return self.inputs["input_ids"].shape[1]


@dataclass(frozen=True)
class Cutter:
    """Cuts batches as one attached encoder needs them."""

    config: CachedConfig
    family: Family
    model_config: PretrainedConfig

    def windows(self, batch: Batch) -> list[Window]:
        """All windows of all documents, in order.

        Raises:
            ValueError: a document without its frame, no room for content, segments that do not make up the content.
        """
        config = self.config
        documents = [self._frame(document, batch) for document in batch.documents]
        return [w for document in documents for w in cut(document, window=config.window, overlap=config.overlap)]

    def passes(
        self, windows: Sequence[Window], batch: Batch, device: torch.device, *, windows_per_pass: int, index: int = 0
    ) -> list[EncoderPass]:
        """The windows, numbered from `index` on, grouped into passes and moved to the device."""
        multiple = self.family.window_multiple(self.model_config)
        layouts = list(lay_out_passes(windows, windows_per_pass=windows_per_pass, multiple=multiple, index=index))
        return self._to_device(layouts, batch, device)

    def sample_pass(self, count: int, batch: Batch, device: torch.device) -> EncoderPass:
        """A pass of `count` full windows for measurements: the batch's own tokens, repeated. It fills no rows of H."""
        slots = torch.arange(count * self.config.window)
        tokens = (slots % batch.input_ids.numel()).view(count, -1)
        return self._to_device([PassLayout(0, tokens, slots, spans=())], batch, device)[0]

    def idle_pass(self, batch: Batch, device: torch.device) -> EncoderPass:
        """One window of which nothing is kept, for a rank that has none.

        It tells the width and type of the states, and whether the encoder draws random numbers.
        """
        sample = self.sample_pass(1, batch, device)
        return dataclasses.replace(sample, slots=sample.slots[:0])

    def _frame(self, document: Document, batch: Batch) -> Document:
        """The document with its head (frame and prefix) and tail, which every window will repeat, and its segments."""
        prefix, segments = int(batch.prefix_lengths[document.row]), batch.segments[document.row]
        if not self.config.frame_windows:
            return dataclasses.replace(document, head=prefix, segments=segments)
        if document.length <= self.config.window and not segments:
            return document
        frame = self._find_frame(batch.input_ids.flatten()[document.start :][: document.length], row=document.row)
        head, tail = len(frame.head) + prefix, len(frame.tail)
        return dataclasses.replace(document, head=head, tail=tail, segments=segments)

    def _find_frame(self, tokens: Tensor, *, row: int) -> FramePattern:
        ends = [*tokens[:MIN_WINDOW].tolist(), *tokens[-MIN_WINDOW:].tolist()]  # a frame is shorter than any window
        for frame in self.family.frames:
            if frame.fits(ends, self.model_config):
                return frame
        raise ValueError(
            f"document {row} ({len(tokens)} tokens) lacks the special tokens that every window repeats "
            f"({' or '.join(map(str, self.family.frames))}); tokenize with add_special_tokens=True, or set "
            "frame_windows=False"
        )

    def _to_device(self, layouts: Sequence[PassLayout], batch: Batch, device: torch.device) -> list[EncoderPass]:
        """The passes on the device, all their tensors by one copy."""
        tensors = [{"slots": layout.slots, **self._inputs(layout, batch)} for layout in layouts]
        moved = iter(_move([tensor for each in tensors for tensor in each.values()], device))
        passes = []
        for layout, names in zip(layouts, tensors, strict=True):
            inputs = dict(zip(names, moved, strict=False))
            if "attention_mask" in inputs and self._takes_wide_masks():
                inputs["attention_mask"] = inputs["attention_mask"].bool()[:, None, None]
            passes.append(EncoderPass(layout.index, inputs, inputs.pop("slots"), layout.spans))
        return passes

    def _takes_wide_masks(self) -> bool:
        """Whether a mask [N, 1, 1, w] is taken as it is; of one of [N, w] the device would be asked if all are ones."""
        return self.model_config._attn_implementation == "sdpa" and not self.family.encoder_layer.own_mask

    def _inputs(self, layout: PassLayout, batch: Batch) -> dict[str, Tensor]:
        """The encoder's inputs of one pass [N, w], on the host."""
        inputs = {"input_ids": layout.gather(batch.input_ids, self.model_config.pad_token_id)}
        if len(batch.holes) or not layout.full:
            is_read = (layout.tokens >= 0) & ~torch.isin(layout.tokens, batch.holes)
            inputs["attention_mask"] = is_read.long()
        if self.family.global_attention:
            inputs["global_attention_mask"] = layout.gather(batch.global_attention_mask, 0)
            if self.config.global_first_token:
                inputs["global_attention_mask"][:, 0] = 1
        return inputs


def _segments(lengths: Tensor, *, rows: int) -> list[tuple[int, ...]]:
    """The lengths [B, S] of each row, without the zeros that pad them."""
    if lengths.dim() != 2 or len(lengths) != rows:
        raise ValueError(f"segment_lengths {tuple(lengths.shape)} must be [B, S] with B={rows}, padded with 0")
    return [tuple(length for length in row if length) for row in lengths.tolist()]


def _move(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors of one dtype to the device together, from pinned memory, without waiting; on the CPU, themselves."""
    if device.type == "cpu" or not tensors:
        return list(tensors)
    together = torch.cat([tensor.flatten() for tensor in tensors]).pin_memory().to(device, non_blocking=True)
    parts = together.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
