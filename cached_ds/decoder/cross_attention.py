"""Streaming: put streamed cross-attention into a decoder, and take it out again.

Each decoder layer's cross-attention gets its streamed class (replay_by_tile.py). A forward pre-hook on the decoder
takes the states H and their mask out of the arguments, and puts a stand-in for H (document_states.py) and a mask of no
memory in their place: Hugging Face passes a mask of four dimensions on as it is, and would make one of T x L from any
other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cached_ds.decoder.document_states import Source
from cached_ds.decoder.replay_by_tile import Streamed
from cached_ds.models.class_swap import base_of, remove_hook, swapped_class
from cached_ds.models.families import Family
from cached_ds.windows.cut import documents_of, whole_rows


def attach_streaming(model: PreTrainedModel, family: Family) -> None:
    """Stream the cross-attention of a Hugging Face model's decoder, in place."""
    decoder = model.get_decoder()
    for layer in getattr(decoder, family.layers):
        attention: Any = layer.get_submodule(family.cross_attention.path)
        attention.names = family.cross_attention
        attention.__class__ = swapped_class(Streamed, attention.__class__)
    decoder.register_forward_pre_hook(_hand_over, with_kwargs=True)


def detach_streaming(model: PreTrainedModel) -> None:
    """Undo `attach_streaming`; nothing happens where it was not done."""
    decoder = model.get_decoder()
    for attention in [module for module in decoder.modules() if isinstance(module, Streamed)]:
        attention.__class__ = base_of(attention)
        del attention.names
    remove_hook(decoder, _hand_over)


def _hand_over(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook: stand-ins for H [B, L, D] and its mask, where this call is to be streamed."""
    states, mask = kwargs.get("encoder_hidden_states"), kwargs.get("encoder_attention_mask")
    if states is not None and _is_streamed(decoder, kwargs):
        documents = whole_rows(*states.shape[:2]) if mask is None else documents_of(mask)
        kwargs["encoder_hidden_states"] = Source(states, documents, keep=decoder.cached.keep_projections).stand_in()
        kwargs["encoder_attention_mask"] = _mask_of_no_memory(states, kwargs)
        kwargs["use_cache"] = False
    return args, kwargs


def _is_streamed(decoder: Any, kwargs: dict[str, Any]) -> bool:
    """Training and losses; not calls with a cache of keys and values, nor those that ask for attention weights."""
    cached = kwargs.get("past_key_values") is not None or not (
        torch.is_grad_enabled() or kwargs.get("use_cache") is False
    )
    asked = kwargs.get("output_attentions")
    return not cached and not (decoder.config.output_attentions if asked is None else asked)


def _mask_of_no_memory(states: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """[B, 1, T, L] of one byte."""
    target = kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]
    return torch.ones((), dtype=torch.bool).expand(len(states), 1, target.shape[1], states.shape[1])
