"""Trainers: the same training step under every engine: forward and backward, clip, AdamW.

`alone` is one process without a process group, the measure of all others. Every engine runs torch.optim.AdamW and
clips at 1.0; DeepSpeed has its settings from ds_configs/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

LEARNING_RATE, CLIP = 1e-5, 1.0
CONFIGS = Path(__file__).parents[2] / "ds_configs"
Batch = dict[str, Tensor]


class Alone:
    """One process; `wrap` is where DDP and FSDP2 differ."""

    def __init__(self, model: nn.Module) -> None:
        """Take an attached model."""
        self.model: Any = self.wrap(model)
        self.optimizer: Any = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the engine wants it."""
        return model

    def backward(self, batch: Batch) -> Tensor:
        """Forward and backward; returns the loss."""
        loss: Tensor = self.model(**batch).loss
        loss.backward()
        return loss.detach()

    def update(self) -> None:
        """Clip and step."""
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self, batch: Batch) -> None:
        """A whole training step."""
        self.backward(batch)
        self.update()


class Ddp(Alone):
    """DistributedDataParallel."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """All gradients reduced in buckets."""
        wrapped = nn.parallel.DistributedDataParallel(model)
        if dist.get_backend() == dist.Backend.FAKE:
            wrapped.register_comm_hook(None, _reduce)
        return wrapped


class Fsdp2(Alone):
    """`fully_shard`."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """Encoder and decoder layers as units."""
        from cached_ds import fsdp

        return fsdp.shard(model)


class Zero(Alone):
    """DeepSpeed, as ds_configs/zero`stage`.json says."""

    stage = "0"

    def __init__(self, model: nn.Module) -> None:
        """Take an attached model; the optimizer is DeepSpeed's, around torch's."""
        from cached_ds import zero

        inner = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        config = CONFIGS / f"zero{self.stage}.json"
        self.model, self.optimizer, *_ = zero.initialize(model=model, config=config, optimizer=inner)

    def backward(self, batch: Batch) -> Tensor:
        """Forward and backward; returns the loss."""
        loss: Tensor = self.model(**batch).loss
        self.model.backward(loss)
        return loss.detach()

    def update(self) -> None:
        """Clip and step."""
        self.model.step()


class Zero1(Zero):
    """The optimizer's states are sharded."""

    stage = "1"


class Zero2(Zero):
    """Gradients too."""

    stage = "2"


class Zero3(Zero):
    """Parameters too."""

    stage = "3"


class Zero3Offload(Zero):
    """All of it in host memory."""

    stage = "3_offload"


def _reduce(_, bucket):  # DDP wants no annotations, or evaluated ones
    """DDP's own reduction, with the result that the reducer asks for and a fake group does not give."""
    dist.all_reduce(bucket.buffer())
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


ALONE = "alone"
ENGINES = {"ddp": Ddp, "zero1": Zero1, "zero2": Zero2, "zero3": Zero3, "fsdp2": Fsdp2}
TRAINERS: dict[str, type[Alone]] = {ALONE: Alone, **ENGINES, "zero3_offload": Zero3Offload}
TITLES = {"ddp": "DDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}
