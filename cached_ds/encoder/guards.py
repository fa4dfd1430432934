"""Guards: refuse an engine's sharding of the encoder under which replay would hang or lose gradients.

Replay needs the gradients of whole parameters, gathered once for all windows. A smaller FSDP unit, or a ZeRO-3 module
that is not a leaf, inside the replayed module (the encoder; under the layer schedule one of its layers) would gather
once per window: ranks with different numbers of windows then wait for each other for ever, and with equal numbers the
gradients of the shards are silently never computed.
"""

from __future__ import annotations

from accelerate.state import AcceleratorState
from torch import nn
from torch.distributed.tensor import DTensor


def refuse_foreign_parameters(encoder: nn.Module) -> None:
    """Refuse, inside the encoder's forward, parameters that are not the encoder's own.

    FSDP1 leaves views of its flat parameter in their place, or nothing; `torch.func.functional_call` other tensors.

    Raises:
        RuntimeError: the message says who has put them there, and what to do.
    """
    parameters = list(encoder.parameters())
    if parameters and all(isinstance(parameter, nn.Parameter) for parameter in parameters):
        return
    if parameters and not any(getattr(module, "_is_fsdp_managed_module", False) for module in encoder.modules()):
        raise RuntimeError(
            "cached_ds: the encoder's parameters are plain tensors in its forward, as torch.func.functional_call puts "
            "them there; replay would lose their gradients in backward, when they are gone. Load values into the "
            "model instead, or call cached_ds.detach(model) first"
        )
    raise RuntimeError(
        "cached_ds: the encoder does not own its parameters in its forward: FSDP1 (FullyShardedDataParallel) has "
        "them, which is not supported; use FSDP2: cached_ds.fsdp.shard(model), or fsdp_version: 2 for accelerate"
    )


def refuse_sequence_parallelism() -> None:
    """Refuse accelerate's context and sequence parallelism: they would make the encoder's attention causal in silence.

    Raises:
        ValueError: `cp_size` or `sp_size` is above 1.
    """
    parallelism = AcceleratorState._shared_state.get("parallelism_config")
    for name in ("cp_size", "sp_size"):
        size = getattr(parallelism, name, 1)
        if size > 1:
            raise ValueError(
                f"{name}={size} is refused; allowed is 1: accelerate splits sequences of decoder-only models, and "
                "would make this encoder's attention causal. Windows need no such split"
            )


def check_gathered(encoder: nn.Module) -> None:
    """Check that every parameter of an encoder (or of one of its layers) is whole; call it in its forward.

    Raises:
        RuntimeError: a parameter is still sharded, or FSDP1 manages the encoder; the message says what to do.
    """
    refuse_foreign_parameters(encoder)
    what = type(encoder).__name__
    for name, parameter in encoder.named_parameters():
        if isinstance(parameter, DTensor):
            raise RuntimeError(
                f"cached_ds: parameter {name} is sharded inside the encoder's forward: a part of {what} is an FSDP "
                "unit of its own; it would be gathered once per window, and gradients lost. Take the units of "
                "cached_ds.fsdp.shard(model), or the names of cached_ds.fsdp.wrap_classes(model); "
                "schedule='layer' makes a unit of each encoder layer"
            )
        if parameter.numel() != getattr(parameter, "ds_numel", parameter.numel()):
            raise RuntimeError(
                f"cached_ds: parameter {name} is still partitioned by ZeRO-3 inside the encoder's forward; "
                f"call cached_ds.attach(model) before deepspeed.initialize, so that {what} is gathered as one"
            )
