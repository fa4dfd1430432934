"""Cross-attention: the class that a decoder's attention to the document gets from `attach`, and how H reaches it.

A forward pre-hook on the decoder takes the states H and their mask out of the arguments, and puts a placeholder for H
(document_states.py) and a mask of one byte in their place: Hugging Face passes a mask of four dimensions on as it is,
but would expand any other to T x L. Each layer's cross-attention, `Streamed`, finds H again and attends to it tile by
tile (replay_by_tile.py).

Engines: tensors go in, one tensor comes out (docs/design.md, "The engines' contract"); the module is a leaf for ZeRO-3
and part of its layer's unit for FSDP2.

`generate` puts a cache of its own in the place of Hugging Face's (cross_cache.py). A caller may give the placeholder of
states of its own, which weigh the windows (attention_mass.py). Other calls that fill or use a cache of keys and values,
or that ask for attention weights, are left to Hugging Face. Reentrant checkpointing would cut off the graph of H and is
refused.

Shapes: B documents, n beams of each (1 but in `generate`), L padded source length, S tile length, T target length,
D width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cached_ds.decoder.attention_mass import WeighedDocuments
from cached_ds.decoder.cross_cache import DocumentCache, KeptDocuments, Projections, cache_in
from cached_ds.decoder.document_states import DocumentStates
from cached_ds.decoder.replay_by_tile import AttentionCall, attend
from cached_ds.document_parallel.shares import Share, share_of
from cached_ds.models.class_swap import Swapped, base_of, remove_hook, swapped_class
from cached_ds.models.families import CrossAttention, Family
from cached_ds.replay.rng import ReplayRng
from cached_ds.settings import device_sizes
from cached_ds.windows.cut import Document, runs_of, whole_rows

LONGEST_MASKED = 4096  # target tokens; the mask takes 16 MiB


class Streamed(Swapped):
    """Mixin over a Hugging Face cross-attention class, which attends to H tile by tile."""

    _z3_leaf = True
    names: CrossAttention
    documents: DocumentStates | None = None  # of the call under way

    @torch.compiler.disable  # see docs/design.md, "Compiled models"
    def __call__(self, hidden_states: Tensor, *, key_value_states: Tensor | None = None, **kwargs: Any) -> Any:
        """Hugging Face's tuple, with the output [B, T, D] first; weights and position biases are None.

        Raises:
            RuntimeError: reentrant checkpointing.
        """
        documents = DocumentStates.find(key_value_states)
        if documents is None:
            return super().__call__(hidden_states, key_value_states=key_value_states, **kwargs)
        if documents.recorded and not torch.is_grad_enabled():
            raise RuntimeError(
                "cached_ds: the decoder runs without a graph inside a forward with one: reentrant checkpointing would "
                'lose the gradient of the document; use gradient_checkpointing_kwargs={"use_reentrant": False}'
            )
        self.documents = documents
        output = super().__call__(hidden_states, documents.anchor)
        return output, *[None] * (self.names.results - 1)

    def forward(self, hidden_states: Tensor, anchor: Tensor | None = None, **kwargs: Any) -> Any:
        """Output [B, T, D] for hidden states [B, T, D], streamed if an anchor is given; else Hugging Face's own."""
        if anchor is None:
            return super().forward(hidden_states, **kwargs)
        documents, self.documents = self.documents, None
        assert documents is not None, "set by __call__"
        way = self._way()
        q = _folded(way.heads(getattr(self, self.names.query)(hidden_states)), documents.shape[0])
        if isinstance(documents, KeptDocuments | WeighedDocuments):
            output = documents.attend(q, way)
        else:
            output = attend(self._attention_call(documents, q, way), q)
        output = _unfolded(output, len(hidden_states))
        return getattr(self, self.names.output)(output.transpose(1, 2).flatten(2))

    def _attention_call(self, documents: DocumentStates, q: Tensor, way: Projections) -> AttentionCall:
        kernel = way.kernel(q)
        return AttentionCall(
            documents=documents,
            tiles=documents.tiles_for(q, kernel),
            num_tiles=documents.num_tiles_for(q, kernel),
            project=way.project,
            parameters=self._trainable,
            rng=ReplayRng(None, q.device),
            projections_draw=any(type(module) is not nn.Linear for module in self._projections()),
            kernel=kernel,
        )

    def _way(self) -> Projections:
        key, value = self._projections()
        dropout = float(self.dropout) if self.training else 0.0  # type: ignore[arg-type]
        width, scale = getattr(self, self.names.head_width), float(self.scaling)  # type: ignore[arg-type]
        return Projections(key, value, head_width=width, scale=scale, dropout=dropout)

    def _projections(self) -> list[nn.Module]:
        """Those of keys and values; an adapter may stand in their place."""
        return [getattr(self, self.names.key), getattr(self, self.names.value)]

    def _trainable(self) -> list[Tensor]:
        return [p for module in self._projections() for p in module.parameters() if p.requires_grad]


def _folded(q: Tensor, documents: int) -> Tensor:
    """Queries [n B, H, T, D / H] as [B, H, n T, D / H]: a document's n beams follow each other, and see the same."""
    return q.unflatten(0, (documents, -1)).transpose(1, 2).flatten(2, 3) if len(q) > documents else q


def _unfolded(output: Tensor, rows: int) -> Tensor:
    """Undo `_folded` for an output of as many rows."""
    documents = len(output)
    return output.unflatten(2, (rows // documents, -1)).transpose(1, 2).flatten(0, 1) if rows > documents else output


def attach_streaming(model: PreTrainedModel, family: Family) -> None:
    """Make the cross-attentions of a Hugging Face model's decoder stream H, in place."""
    decoder = model.get_decoder()
    for layer in getattr(decoder, family.layers):
        attention: Any = layer.get_submodule(family.cross_attention.path)
        attention.names = family.cross_attention
        attention.__class__ = swapped_class(Streamed, attention.__class__)
    decoder.register_forward_pre_hook(_hand_over, with_kwargs=True)


def detach_streaming(model: PreTrainedModel) -> None:
    """Undo `attach_streaming`; other models stay as they are."""
    decoder = model.get_decoder()
    for attention in [module for module in decoder.modules() if isinstance(module, Streamed)]:
        attention.__class__ = base_of(attention)
        del attention.names
        vars(attention).pop("documents", None)
    remove_hook(decoder, _hand_over)


@torch.compiler.disable
def _hand_over(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook: where this call is to be streamed, pass on H's placeholder [B, L, D] and a one-byte mask."""
    states, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
    if states is None:
        return args, kwargs
    past, documents, share = cache_in(kwargs), DocumentStates.find(states), share_of(states)
    shape = states.shape[:2] if share is None else share.shape
    _check_share(decoder, share, kwargs)
    if documents is not None:  # the caller has made them
        _put(documents, kwargs)
    elif isinstance(past, DocumentCache):
        if past.documents is None:
            past.documents = KeptDocuments(states, _runs(shape, mask), config=decoder._cached_ds.config, share=share)
        _put(past.documents, kwargs)
    elif _is_streamed(decoder, kwargs):
        state = decoder._cached_ds
        options = {"tile": state.config.tile, "keep_projections": state.call.keep_projections}
        options |= {"learns": state.call.learns, "share": share}
        _put(DocumentStates(states, _runs(shape, mask), **options), kwargs)
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = _causal_mask(decoder, _target(kwargs).shape[1])
    else:
        kwargs["encoder_hidden_states"] = _readable(states, decoder, past)
    return args, kwargs


def _runs(shape: Sequence[int], mask: Tensor | None) -> list[Document]:
    """Where the documents are in a batch of shape (B, L)."""
    return whole_rows(*shape) if mask is None else runs_of(mask)


def _check_share(decoder: Any, share: Share | None, kwargs: dict[str, Any]) -> None:
    """Refuse calls of the decoder in which a rank would take its share of the documents for all of them.

    Raises:
        ValueError: states that the encoder has not returned in this form; attention that is not streamed; generation
            with dropout.
    """
    ranks = decoder._cached_ds.config.document_parallel
    if ranks == 1:
        return
    if share is None:
        raise ValueError(
            f"encoder_outputs are refused with document_parallel={ranks}, unless they are the encoder's own, as it has "
            "returned them; pass input_ids"
        )
    if isinstance(cache_in(kwargs), DocumentCache):
        if decoder.training:
            raise ValueError(
                f"generate in training mode is refused with document_parallel={ranks}: its dropout would differ from "
                "rank to rank; call model.eval() first"
            )
        return
    if cache_in(kwargs) is not None or kwargs.get("use_cache") or kwargs.get("output_attentions"):
        raise ValueError(
            f"use_cache and output_attentions are refused with document_parallel={ranks}, but for generate with its "
            "own cache: no rank has the keys and values of the whole document"
        )
    kwargs["use_cache"] = False


def _put(documents: DocumentStates, kwargs: dict[str, Any]) -> None:
    """Put H's placeholder [B, L, D] and a mask of one byte [n B, 1, T, L], all true, in the place of H and its mask."""
    rows, length = _target(kwargs).shape[:2]
    kwargs["encoder_hidden_states"] = documents.placeholder()
    kwargs["encoder_attention_mask"] = torch.ones((), dtype=torch.bool).expand(rows, 1, length, documents.shape[1])


def _is_streamed(decoder: Any, kwargs: dict[str, Any]) -> bool:
    """Whether to stream: not with a cache of keys and values, nor where attention weights are asked for.

    As in Hugging Face, the config says whether to fill a cache where the caller does not, but none is in training.
    """
    use_cache, asked = kwargs.get("use_cache"), kwargs.get("output_attentions")
    if use_cache is None:
        use_cache = decoder.config.use_cache and not (decoder.training and torch.is_grad_enabled())
    has_cache = use_cache or cache_in(kwargs) is not None
    return not has_cache and not (decoder.config.output_attentions if asked is None else asked)


def _readable(states: Tensor, decoder: nn.Module, past: Any) -> Tensor:
    """H where Hugging Face's own projections can read it; once a cache holds keys and values, nobody reads H."""
    is_cached = bool(getattr(past, "is_updated", {}).get(0))
    return states if is_cached else states.to(next(decoder.parameters()).device)


def _target(kwargs: dict[str, Any]) -> Tensor:
    return kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]


def _causal_mask(decoder: Any, length: int) -> Tensor | None:
    """A causal mask [1, 1, T, T] for the decoder's self-attention on a GPU; None where Hugging Face's own costs less.

    Without any, BART's decoder makes a mask of ones, and asks the device whether it is all ones.
    """
    device = next(decoder.parameters()).device
    if device_sizes.is_cpu(device) or decoder.config._attn_implementation != "sdpa" or length > LONGEST_MASKED:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
