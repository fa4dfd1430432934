"""Generation: the class that the model itself gets by `attach`, so that `generate` reads a document once on all ranks.

Problem. Hugging Face copies H for every beam (`_expand_inputs_for_generation`), and keeps and reorders keys and values
of every copy. Here documents are not copied, and `generate` gets a cache that holds them once (cross_cache.py).

Problem. Under ZeRO-3 every forward gathers parameters, so a rank that has finished its summary must go on calling the
model until all have. transformers does so (`synced_gpus`) only while an `HfDeepSpeedConfig` is alive. Its Trainer holds
one; after `deepspeed.initialize` nobody does, and the ranks that still write wait for ever. Under FSDP2 transformers
looks at the model, and `Generating` does the same under ZeRO-3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from transformers import EncoderDecoderCache, PreTrainedModel

from cached_ds.decoder.cross_cache import CACHE_NAMES, DocumentCache, cache_in
from cached_ds.models.class_swap import Swapped, base_of, swapped_class


class Generating(Swapped):
    """Mixin over a Hugging Face model class; see the module's docstring."""

    keeps_name = True  # pipelines, and the config of a saved model, know models by the names of their classes

    def generate(self, *args: Any, synced_gpus: bool | None = None, **kwargs: Any) -> Any:
        """Hugging Face's, with every rank's forwards as many as the longest generation needs under ZeRO-3.

        Args:
            *args: of Hugging Face's `generate`.
            synced_gpus: as Hugging Face's; None: wherever ranks gather parameters together.
            **kwargs: of Hugging Face's `generate`.
        """
        if synced_gpus is None and any(hasattr(parameter, "ds_numel") for parameter in self.parameters()):
            synced_gpus = dist.get_world_size() > 1
        generate: Any = super().generate  # type: ignore[misc]
        return generate(*args, synced_gpus=synced_gpus, **kwargs)

    def _expand_inputs_for_generation(self, *args: Any, is_encoder_decoder: bool = False, **kwargs: Any) -> Any:
        """Hugging Face's, except that H and its mask stay as they are."""
        expand: Any = super()._expand_inputs_for_generation  # type: ignore[misc]
        if not self._shares_documents(kwargs):
            return expand(*args, is_encoder_decoder=is_encoder_decoder, **kwargs)
        shared = {name: kwargs.pop(name) for name in ("encoder_outputs", "attention_mask") if name in kwargs}
        ids, expanded = expand(*args, is_encoder_decoder=False, **kwargs)
        return ids, expanded | shared

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any) -> None:
        """Hugging Face's, with the documents in the place of the part for cross-attention."""
        shares = self._shares_documents(model_kwargs)
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)  # type: ignore[misc]
        for name in CACHE_NAMES:
            if shares and isinstance(cache := model_kwargs.get(name), EncoderDecoderCache):
                model_kwargs[name] = DocumentCache(cache.self_attention_cache)

    def _shares_documents(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether beams share documents: not with a cache of the caller's, nor where attention weights are wanted."""
        model: Any = self
        config = model.get_decoder()._cached_ds.config
        asked = kwargs.get("output_attentions") or model.config.output_attentions
        return config.stream_cross_attention and cache_in(kwargs) is None and not asked


def attach_generation(model: PreTrainedModel) -> None:
    """Let a Hugging Face model generate under any engine, in place."""
    base: Any = type(model)
    model.__class__ = swapped_class(Generating, base)


def detach_generation(model: PreTrainedModel) -> None:
    """Undo `attach_generation`."""
    model.__class__ = base_of(model)
