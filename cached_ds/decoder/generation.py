"""Generation: the class that the model itself gets by `attach`, so that `generate` ends on all ranks.

Problem. Under ZeRO-3 every forward gathers parameters, so a rank that has finished its summary must go on calling the
model until all have. transformers does so (`synced_gpus`) only while an `HfDeepSpeedConfig` is alive. Its Trainer holds
one; after `deepspeed.initialize` nobody does, and the ranks that still write wait for ever. Under FSDP2 transformers
looks at the model, and `Generating` does the same under ZeRO-3.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from transformers import PreTrainedModel

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


def attach_generation(model: PreTrainedModel) -> None:
    """Let a Hugging Face model generate under any engine, in place."""
    base: Any = type(model)
    model.__class__ = swapped_class(Generating, base)


def detach_generation(model: PreTrainedModel) -> None:
    """Undo `attach_generation`."""
    model.__class__ = base_of(model)
