"""Guards: refuse what an engine did to the encoder's parameters when replay would hang or lose gradients under it.

Replay asks for the gradients of whole parameters, gathered once for all windows. A smaller FSDP unit, or a ZeRO-3
module that is not a leaf, inside what is replayed (the encoder; under the layer schedule one of its layers) would
gather once per window: ranks with different numbers of windows then wait for each other for ever, and with equal
numbers the gradients of the shards are silently never computed.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.tensor import DTensor


def refuse_fsdp1(encoder: nn.Module) -> None:
    """Refuse FSDP1, inside the encoder's forward: it leaves views of its flat parameter in the encoder, or nothing.

    Raises:
        RuntimeError: FSDP1 manages the encoder; the message says what to do.
    """
    parameters = list(encoder.parameters())
    if not parameters or not all(isinstance(parameter, nn.Parameter) for parameter in parameters):
        raise RuntimeError(
            "cached_ds: the encoder's parameters are not its own in its forward: FSDP1 (FullyShardedDataParallel) has "
            "them, which is not supported; use FSDP2: cached_ds.fsdp.shard(model), or fsdp_version: 2 for accelerate"
        )


def check_gathered(encoder: nn.Module) -> None:
    """Check, inside the forward of an encoder (or of one of its layers), that every parameter of it is whole.

    Raises:
        RuntimeError: a parameter is still sharded, or FSDP1 manages the encoder; the message says what to do.
    """
    refuse_fsdp1(encoder)
    what = type(encoder).__name__
    for name, parameter in encoder.named_parameters():
        if isinstance(parameter, DTensor):
            raise RuntimeError(
                f"cached_ds: parameter {name} is sharded inside the encoder's forward: a part of {what} is an FSDP "
                "unit of its own; windows would be gathered one by one and gradients lost. Take the units of "
                "cached_ds.fsdp.shard(model), or the names of cached_ds.fsdp.wrap_classes(model); "
                "schedule='layer' makes a unit of each encoder layer"
            )
        if parameter.numel() != getattr(parameter, "ds_numel", parameter.numel()):
            raise RuntimeError(
                f"cached_ds: parameter {name} is still partitioned by ZeRO-3 inside the encoder's forward; "
                f"call cached_ds.attach(model) before deepspeed.initialize, so that {what} is gathered as one"
            )
