"""FSDP2: shard an attached model. The windowed encoder is one unit or, under the layer schedule, one unit per layer.

A unit's parameters are gathered once in forward and once in backward, for all windows of all documents, so the number
of collectives does not depend on a rank's documents. Each decoder layer is a unit of its own. A weight that the encoder
shares with other modules (tied embeddings) belongs to the root unit, which stays gathered between forward and backward;
the encoder's unit ignores it.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from cached_ds.attachment import inner_model, windowed_encoder
from cached_ds.encoder.layered import Replayed

M = TypeVar("M", bound=nn.Module)


def shard(
    model: M,
    *,
    mesh: DeviceMesh | None = None,
    mp_policy: MixedPrecisionPolicy | None = None,
    offload_policy: OffloadPolicy | None = None,
    reshard_after_forward: bool | int = True,
) -> M:
    """Apply torch's `fully_shard` to an attached model, in place. Returns the same object.

    The process group must exist. `model.generate` is registered, so that it gathers the parameters as a forward does.

    Args:
        model: an attached model (or a PEFT model over one).
        mesh: device mesh of `fully_shard`; None: all ranks.
        mp_policy: mixed precision of every unit.
        offload_policy: CPU offload of every unit.
        reshard_after_forward: as in `fully_shard`, for the encoder (or its layers) and the decoder layers; the root
            unit stays gathered.

    Raises:
        ValueError: the model is not attached.
    """
    encoder = windowed_encoder(model)
    options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": reshard_after_forward}
    options |= {"mp_policy": mp_policy} if mp_policy is not None else {}
    options |= {"offload_policy": offload_policy} if offload_policy is not None else {}
    for layer in [*decoder_layers(model), *encoder_layers(model)]:
        fully_shard(layer, **options)
    units: list[Any] = encoder_layers(model)
    for layer in units:
        layer.set_modules_to_backward_prefetch([layer])  # itself, not the next one: one layer at a time
    fully_shard(encoder, ignored_params=shared_parameters(model, encoder), **options)
    del options["reshard_after_forward"]  # the root's weights are used last in forward and first in backward
    fully_shard(model, **options)
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")  # it calls the encoder directly: the root must be gathered too
    return model


def shard_for_accelerate(model: nn.Module, accelerator: Accelerator) -> None:
    """Shard by accelerate's FSDP settings; accelerate then takes the model as it is.

    accelerate's own wrapping refuses tied embeddings ("Parameter 'model.shared.weight' is shared ...").

    Raises:
        ValueError: settings that `check_plugin` refuses; the message names the field.
    """
    plugin = accelerator.state.fsdp_plugin
    check_plugin(plugin)
    check_wrap_classes(plugin, model)
    plugin.auto_wrap_policy = None  # accelerate would look for classes that `fully_shard` has renamed
    mesh = getattr(accelerator, "torch_device_mesh", None)
    shard(
        model,
        mesh=None if mesh is None else mesh[tuple(accelerator.parallelism_config.fsdp_dim_names)],
        mp_policy=_mixed_precision(plugin),
        offload_policy=_offload_policy(plugin),
        reshard_after_forward=plugin.reshard_after_forward,
    )


def _mixed_precision(plugin: FullyShardedDataParallelPlugin) -> MixedPrecisionPolicy | None:
    """Accelerate's policy, but gradients are reduced in float32 and outputs are not cast: the loss is float32."""
    policy = plugin.mixed_precision_policy
    if policy is None:
        return None
    return dataclasses.replace(policy, reduce_dtype=torch.float32, output_dtype=None)


def _offload_policy(plugin: FullyShardedDataParallelPlugin) -> OffloadPolicy | None:
    """CPU offload if the settings ask for it, in pinned memory where there is a device to copy to."""
    return CPUOffloadPolicy(pin_memory=torch.accelerator.is_available()) if plugin.cpu_offload else None


def check_plugin(plugin: FullyShardedDataParallelPlugin) -> None:
    """Refuse accelerate's FSDP settings under which an attached model would not be trained correctly.

    Raises:
        ValueError: FSDP1, weights loaded on rank 0 only, or activation checkpointing.
    """
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"fsdp_version={plugin.fsdp_version}: FSDP1 is not supported because it gathers the encoder once per "
            "window; set fsdp_version: 2 in the accelerate config (see ds_configs/fsdp.yaml)"
        )
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading=true loads the weights on rank 0 only, before the model is sharded; set "
            "it to false in the accelerate config (see ds_configs/fsdp.yaml)"
        )
    if plugin.activation_checkpointing:
        raise ValueError(
            "fsdp_activation_checkpointing=true would recompute the encoder a second time, with other dropout; set it "
            "to false: replay recomputes the encoder, and --gradient_checkpointing the decoder"
        )


def check_wrap_classes(plugin: FullyShardedDataParallelPlugin, model: nn.Module) -> None:
    """Refuse class names of `fsdp_transformer_layer_cls_to_wrap` that no module has; `shard` knows the units by itself.

    Raises:
        ValueError: the first such name, and the names that the model has.
    """
    known = {cls.__name__ for module in model.modules() for cls in type(module).__mro__}
    for name in plugin.transformer_cls_names_to_wrap or []:
        if name not in known:
            raise ValueError(
                f"fsdp_transformer_layer_cls_to_wrap: no module of the model is a {name!r}; leave the field out, or "
                f"set it to {','.join(wrap_classes(model))}"
            )


def is_requested(plugin_arguments: dict[str, Any] | None) -> bool:
    """Whether `accelerate launch` or the Trainer's `--fsdp` asks for FSDP."""
    return plugin_arguments is not None or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def enable_on_cpu(accelerator: Accelerator, plugin_arguments: dict[str, Any] | None) -> None:
    """Turn on FSDP in accelerate's state, for the CPU.

    There accelerate ignores the setting and would silently train with DDP.
    """
    plugin = FullyShardedDataParallelPlugin(**(plugin_arguments or {}))
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


def wrap_classes(model: nn.Module) -> list[str]:
    """Class names for accelerate's `fsdp_transformer_layer_cls_to_wrap`: the encoder (or its layer), the decoder layer.

    accelerate refuses to wrap models with tied embeddings by class; `shard` does not.

    Raises:
        ValueError: the model is not attached.
    """
    units: list[nn.Module] = [*encoder_layers(model), windowed_encoder(model)]
    return [type(units[0]).__name__, type(decoder_layers(model)[0]).__name__]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of an attached model."""
    layers = getattr(inner_model(model).get_decoder(), windowed_encoder(model)._cached_ds.family.layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def encoder_layers(model: nn.Module) -> list[Replayed]:
    """The encoder layers that are units of their own; none under the window schedule."""
    return [module for module in windowed_encoder(model).modules() if isinstance(module, Replayed)]


def shared_parameters(model: nn.Module, encoder: nn.Module) -> set[nn.Parameter]:
    """Parameters of the encoder that other modules of the model use too."""
    inside = set(encoder.modules())
    outside = {p for module in model.modules() if module not in inside for p in module.parameters(recurse=False)}
    return outside & set(encoder.parameters())
