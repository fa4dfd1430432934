"""Cross cache: what `generate` keeps of the documents, once for all beams and all sequences returned.

Problem. Hugging Face copies H and its mask for every beam, caches keys and values of every copy in every layer, and
copies all of them again when beams are reordered; none of it depends on the beam.

Here B documents stay B. The queries of a document's n beams are folded into one row of n T queries, which attend to the
document tile by tile as in training. Hugging Face's own cache holds the decoder's self-attention only, so reordering
costs what it must.

What is kept between steps (`CachedConfig.cross_cache`):
  "kv"    keys and values of every layer, once per document, where H lives (`offload`).
  "none"  nothing but H. For few queries the projections are moved to the queries' side, as in multi-head latent
          attention (DeepSeek-V2, section 2.1.2): q (W_k h + b_k) = (W_k^T q) h + a constant that softmax ignores, and
          sum p (W_v h + b_v) = W_v (sum p h) + b_v. So a step costs H's width per query and head, not two projections
          of the document. Where adapters stand in a projection's place, keys and values are made anew tile by tile.

Shapes: B documents, L padded source length, S tile length, n beams, T target length, M = n T, D width, H heads,
d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, EncoderDecoderCache

from cached_ds.decoder.document_states import DocumentStates, Tile, with_rows
from cached_ds.decoder.tile_kernels import Kernel, Plain, kernel_for, merge_
from cached_ds.document_parallel.shares import Share
from cached_ds.replay import offload
from cached_ds.replay.offload import Conveyor
from cached_ds.replay.sums import sum_dtype
from cached_ds.settings.config import CachedConfig
from cached_ds.windows.cut import Document

CACHE_NAMES = ("past_key_values", "cache")  # of the same argument: up to transformers 5.23, and from 5.24 on


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a model, of its decoder or of its generation; None without one."""
    return next((cache for name in CACHE_NAMES if (cache := arguments.get(name)) is not None), None)


@dataclass(frozen=True)
class Projections:
    """One layer's way from states to keys and values.

    Attributes:
        key: the module that makes keys of states; an adapter may stand in its place.
        value: likewise of values.
        head_width: d.
        scale: of the scores.
        dropout: of the attention weights.
    """

    key: nn.Module
    value: nn.Module
    head_width: int
    scale: float
    dropout: float

    def heads(self, tensor: Tensor) -> Tensor:
        """[B, S, H d] to [B, H, S, d]."""
        return tensor.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [1, H, S, d] each, of states [S, D]."""
        return self.heads(self.key(states).unsqueeze(0)), self.heads(self.value(states).unsqueeze(0))

    def pack(self, states: Tensor) -> Tensor:
        """Keys and values of states [S, D] as rows [S, 2 H d], which all together are [2, H, S, d]."""
        return torch.cat(self.project(states)).reshape(len(states), -1)

    def unpack(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [1, H, S, d] each, of the rows that `pack` gives."""
        keys, values = rows.view(2, -1, len(rows), self.head_width).split(1)
        return keys, values

    def kernel(self, q: Tensor) -> Kernel:
        """The fastest for such queries."""
        return kernel_for(q, scale=self.scale, dropout=self.dropout)


@dataclass(frozen=True)
class KeptKeysAndValues:
    """One layer's keys and values, each tile in the order in which kernels read it: head by head.

    Attributes:
        tiles: that they were made by, and can be read by.
        rows: [B L, 2 H d]; those of a tile are as `Projections.pack` gives them.
    """

    tiles: Sequence[Tile]
    rows: Tensor


class KeptDocuments(DocumentStates):
    """H of one `generate`, and what is made of it once.

    Attributes:
        config: `cross_cache`, and where buffers live.
        kept: by the module that makes a layer's keys, its keys and values.
    """

    def __init__(
        self, states: Tensor, documents: Sequence[Document], *, config: CachedConfig, share: Share | None = None
    ) -> None:
        """Take H [B, L, D], or [1, R, D] of a share; nothing learns from it."""
        super().__init__(states, documents, tile=config.tile, learns=False, share=share)
        self.config = config
        self.kept: dict[nn.Module, KeptKeysAndValues] = {}

    def attend(self, q: Tensor, layer: Projections) -> Tensor:
        """Attention of queries [B, H, M, d] to the documents; the result has the same shape."""
        kernel = layer.kernel(q)
        if self.config.cross_cache == "kv":
            if layer.key not in self.kept:
                self.kept[layer.key] = self._made(q, layer)
            kept = self.kept[layer.key]
            parts = with_rows(kept.tiles, kept.rows, q.device)
            return self.merged(*attend_to(q, kernel.forward, parts, layer.unpack))[0].to(q.dtype)
        if _is_cheaper_moved(q, layer):
            return _attend_to_states(self, q, layer)
        parts = with_rows(self.tiles_for(q, kernel), self.states, q.device)
        return self.merged(*attend_to(q, kernel.forward, parts, layer.project))[0].to(q.dtype)

    def _made(self, q: Tensor, layer: Projections) -> KeptKeysAndValues:
        """Keys and values of a layer, in a buffer where the config says."""
        tiles, conveyor, rows = self.tiles_for(q, layer.kernel(q)), Conveyor(q.device), None
        for tile, states in with_rows(tiles, self.states, q.device):
            packed = layer.pack(states)
            if rows is None:
                shape = (len(self.states), packed.shape[1])
                where, folder = self.config.offload, self.config.offload_folder
                rows = offload.empty(shape, dtype=packed.dtype, device=q.device, offload=where, folder=folder)
            conveyor.store(packed, rows, tile.span)
        conveyor.finish()
        return KeptKeysAndValues(tiles, q.new_empty(0, 0) if rows is None else rows)  # a share may be empty


class DocumentCache(EncoderDecoderCache):
    """Hugging Face's cache of one `generate`: its first part grows with the summaries, its second stays empty.

    Attributes:
        documents: in the place of the second part, once the decoder has been called.
    """

    def __init__(self, self_attention_cache: Cache) -> None:
        """Take the part of the decoder's self-attention."""
        super().__init__(self_attention_cache, DynamicCache())
        self.documents: KeptDocuments | None = None


def _attend_to_states(documents: DocumentStates, q: Tensor, layer: Projections) -> Tensor:
    """With the queries [B, 1, H M, D] that W_k makes of q: states serve as keys and as values."""
    modules: tuple[Any, Any] = (layer.key, layer.value)
    key, value = (module.weight.unflatten(0, (-1, layer.head_width)) for module in modules)
    moved = (q @ key).flatten(1, 2).unsqueeze(1)
    # The fused kernel of the CPU shares its work among heads, and here is one.
    kernel = Plain(layer.scale, layer.dropout) if q.device.type == "cpu" else layer.kernel(moved)
    parts = with_rows(documents.tiles_for(moved, kernel), documents.states, q.device)
    found, lse = attend_to(moved, kernel.forward, parts, lambda h: (h[None, None], h[None, None]))
    heads = q.shape[1:3]
    found = found.to(q.dtype).squeeze(1).unflatten(1, heads) @ value.transpose(-1, -2)
    if documents.share is not None:
        found = documents.merged(found.to(lse.dtype), lse.squeeze(1).unflatten(1, heads))[0].to(q.dtype)
    bias: Any = layer.value.bias
    return found if bias is None else found + bias.unflatten(0, (-1, 1, layer.head_width))


def attend_to(
    q: Tensor,
    forward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Any]],
    parts: Iterable[tuple[Tile, Tensor]],
    split: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Attention of queries [B, H, M, d] to documents whose rows come tile by tile.

    Returns an output of their shape and the log-sum-exps [B, H, M], in float32 or wider.

    Args:
        q: the queries.
        forward: a kernel's, called once for each tile, in order.
        parts: each tile with its rows [S, ...].
        split: makes keys and values [1, H, S, d] of them.
    """
    output = torch.zeros_like(q, dtype=sum_dtype(q), memory_format=torch.contiguous_format)
    lse = torch.full_like(output[..., 0], -torch.inf)
    for tile, part in parts:
        keys, values = split(part.to(q.dtype))
        found, total, _ = forward(tile.of(q), keys, values)
        merge_(tile.of(output), tile.of(lse), found, total)
    return output, lse


def _is_cheaper_moved(q: Tensor, layer: Projections) -> bool:
    """Whether H M products of width D cost less, for every token of a document, than projections to H d."""
    return q.shape[2] < layer.head_width and type(layer.key) is type(layer.value) is nn.Linear
