"""Attach and detach: turn a Hugging Face encoder-decoder into one that reads whole documents, and back.

`attach` changes nine things, all undone by `detach` (tests/encoder/test_attachment.py compares before and after):
  1. the class of the encoder instance (windowed.py, layered.py);
  2. an attribute `_cached_ds` on encoder and decoder (state.py);
  3. a forward pre-hook on the model, which begins a call: it takes `prefix_lengths` and `segment_lengths` out of the
     keyword arguments for the encoder (Hugging Face models would pass them on to the decoder too, or drop them);
  4. `accepts_loss_kwargs = False`, which tells transformers' Trainer that the loss is a mean over the batch. From the
     `**kwargs` of the models' forward the Trainer would conclude the contrary, skip the division by the accumulation
     steps and multiply the loss by the world size (transformers 5.23);
  5. the class of the head, and two hooks that let it compute the training loss in chunks (chunked_loss.py);
  6. the class of each cross-attention, and its attribute `names` (cross_attention.py);
  7. a forward pre-hook on the decoder, which hands the documents' states to them (cross_attention.py);
  8. the class of the model itself (generation.py);
  9. under the layer schedule: the class of each encoder layer and three of its attributes (layered.py).
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from cached_ds.decoder.chunked_loss import attach_loss, detach_loss
from cached_ds.decoder.cross_attention import attach_streaming, detach_streaming
from cached_ds.decoder.generation import attach_generation, detach_generation
from cached_ds.document_parallel.mesh import document_group
from cached_ds.encoder.layered import Layered, attach_layers, detach_layers
from cached_ds.encoder.state import LENGTHS, AttachedState, ModelCall, given_lengths
from cached_ds.encoder.windowed import Windowed
from cached_ds.models.class_swap import base_of, remove_hook, swapped_class
from cached_ds.models.families import check_settings, family_of
from cached_ds.planning.budget import Budget
from cached_ds.planning.compiled import undo
from cached_ds.settings.config import CachedConfig
from cached_ds.settings.versions import check_versions

M = TypeVar("M", bound=nn.Module)
LOSS_FLAG = "accepts_loss_kwargs"


def attach(model: M, config: CachedConfig | None = None, **fields: Any) -> M:
    """Make a Hugging Face encoder-decoder read documents of any length. Returns the same object.

    Call it before the model is wrapped or sharded (DDP, FSDP2, ZeRO); a PEFT model is fine. `detach` undoes it.

    The model then also takes `prefix_lengths` [B]: the number of tokens, after the special tokens at a document's
    beginning, that every window repeats, such as those of a query. And `segment_lengths` [B, S], padded with 0: the
    numbers of tokens of the segments that make up the content, such as scenes; each begins a window of its own.

    A call in training mode with `labels=` computes the loss in chunks of target positions; `output.logits` is None. In
    evaluation, under `torch.no_grad()` or with an adapter on the head, loss and logits are Hugging Face's own.

    Args:
        model: a Hugging Face encoder-decoder of a supported family, or a PEFT model over one.
        config: how to cut and replay; or give the fields of `CachedConfig` themselves: `attach(model, window=1024)`.
        **fields: fields of `CachedConfig`, instead of `config`.

    Raises:
        ValueError: both config and fields; an unsupported family; a model that is already attached or already sharded;
            a window that the encoder cannot read; more ranks for a document than there are, or a number that does not
            divide theirs.
        UnsupportedVersion: torch, transformers or accelerate is older than the oldest that was tested.
    """
    check_versions()
    if config is not None and fields:
        raise ValueError(f"give either a CachedConfig or its fields, not both: {', '.join(sorted(fields))}")
    config = CachedConfig.from_dict(fields) if config is None else config
    inner = inner_model(model)
    _check_attachable(inner.get_encoder())
    family = family_of(inner.config)
    check_settings(family, inner.config, config)
    document_group(config.document_parallel)
    layers = len(getattr(inner.get_decoder(), family.layers))
    state = AttachedState(config, family, Budget(config, layers), vars(inner).get(LOSS_FLAG))
    _change(inner, state)
    return model


def _change(inner: PreTrainedModel, state: AttachedState) -> None:
    """Make the changes that the module's docstring lists."""
    encoder: Any = inner.get_encoder()
    encoder._cached_ds = inner.get_decoder()._cached_ds = state
    if state.config.schedule == "layer":
        attach_layers(encoder)
    encoder.__class__ = swapped_class(Layered if state.config.schedule == "layer" else Windowed, encoder.__class__)
    if state.config.stream_cross_attention:
        attach_streaming(inner, state.family)
    if state.config.chunked_loss:
        attach_loss(inner)
    attach_generation(inner)
    setattr(inner, LOSS_FLAG, False)
    inner.register_forward_pre_hook(_begin_call, with_kwargs=True)


def ensure_attached(model: M, config: CachedConfig | None) -> M:
    """Attach `model` unless it is attached already. Returns the same object.

    Args:
        model: a Hugging Face encoder-decoder, attached or not.
        config: how to cut and replay; None: the defaults, or what the model is attached with.

    Raises:
        ValueError: a config for a model that is attached already; what `attach` refuses.
    """
    if not is_attached(model):
        return attach(model, config)
    if config is not None:
        raise ValueError("the model is attached already: leave `cached` out, or detach it first")
    return model


def detach(model: M) -> M:
    """Undo `attach`: the model gets its own classes back, and loses the hooks. Returns the same object.

    Args:
        model: an attached model, not wrapped by an engine, or a PEFT model over one.

    Raises:
        ValueError: the model is not attached, or wrapped.
    """
    inner = inner_model(model)
    encoder: Any = windowed_encoder(inner)
    detach_layers(encoder)
    encoder.__class__ = base_of(encoder)
    undo(getattr(encoder, encoder._cached_ds.family.layers))
    told = encoder._cached_ds.accepts_loss_kwargs
    del encoder._cached_ds, inner.get_decoder()._cached_ds
    detach_streaming(inner)
    detach_loss(inner)
    detach_generation(inner)
    delattr(inner, LOSS_FLAG)
    if told is not None:
        setattr(inner, LOSS_FLAG, told)
    remove_hook(inner, _begin_call)
    return model


def is_attached(model: nn.Module) -> bool:
    """Whether `model` (or the model inside DDP, FSDP2, DeepSpeed or PEFT wrappers) is attached."""
    return any(isinstance(module, Windowed) for module in model.modules())


def windowed_encoder(model: nn.Module) -> Windowed:
    """The attached encoder inside `model`, whatever wraps it.

    Raises:
        ValueError: nothing is attached.
    """
    for module in model.modules():
        if isinstance(module, Windowed):
            return module
    raise ValueError("the model is not attached; call cached_ds.attach(model, window=...) first")


def inner_model(model: Any) -> PreTrainedModel:
    """The Hugging Face model itself, out of a PEFT wrapper if there is one.

    Raises:
        ValueError: `model` is not a Hugging Face model.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(inner, PreTrainedModel):
        raise ValueError(
            f"{type(model).__name__} is not a Hugging Face model; attach it before an engine wraps or shards it"
        )
    return inner


def _check_attachable(encoder: nn.Module) -> None:
    if isinstance(encoder, Windowed):
        raise ValueError("the model is already attached; call cached_ds.detach(model) first to attach it anew")
    if any(isinstance(parameter, DTensor) for parameter in encoder.parameters()):
        raise ValueError("the encoder's parameters are already sharded; attach first, then shard the model")
    if hasattr(encoder, "ds_id"):  # ZeRO-3 numbers the modules it hooks; its hooks would gather once per window
        raise ValueError("ZeRO-3 already manages the encoder; attach before deepspeed.initialize")


@torch.compiler.disable  # see docs/design.md, "Compiled models"
def _begin_call(model: PreTrainedModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook: begin a `ModelCall`, with the lengths that were given if this call runs the encoder."""
    lengths = given_lengths(kwargs)
    for name in LENGTHS:
        kwargs.pop(name, None)
    runs_encoder = kwargs.get("encoder_outputs") is None  # `generate` has run it already
    learns = any(parameter.requires_grad for parameter in model.parameters())
    windowed_encoder(model)._cached_ds.call = ModelCall(lengths=lengths if runs_encoder else {}, learns=learns)
    return args, kwargs
