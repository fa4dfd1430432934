"""The same training step under every engine that is measured: forward and backward, clip, AdamW.

`alone` is one process without a process group, the measure of all others. Every engine runs torch.optim.AdamW and
clips at 1.0; DeepSpeed has its settings from ds_configs/. `PEER` is what ZeRO-2 is compared with: no cached_ds in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from peers import coalesced

LEARNING_RATE, CLIP = 1e-5, 1.0
CONFIGS = Path(__file__).parents[2] / "ds_configs"
Batch = dict[str, Tensor]


class AloneTrainer:
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
        """Clip the gradients, update the parameters, and drop the gradients."""
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self, batch: Batch) -> None:
        """A whole training step."""
        self.backward(batch)
        self.update()


class DdpTrainer(AloneTrainer):
    """DistributedDataParallel: every rank holds everything; gradients are reduced in buckets."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model inside DistributedDataParallel."""
        wrapped = nn.parallel.DistributedDataParallel(model)
        if dist.get_backend() == dist.Backend.FAKE:
            wrapped.register_comm_hook(None, _reduce)
        return wrapped


class Fsdp2Trainer(AloneTrainer):
    """`fully_shard`: parameters, gradients and optimizer states are sharded."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, sharded by encoder and decoder layers."""
        from cached_ds import fsdp

        return fsdp.shard(model)


class ZeroTrainer(AloneTrainer):
    """DeepSpeed, as ds_configs/zero`stage`.json says."""

    stage = "0"

    def __init__(self, model: nn.Module) -> None:
        """Take an attached model; the optimizer is DeepSpeed's, around torch's."""
        from cached_ds import zero

        inner = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        config = CONFIGS / f"zero{self.stage}.json"
        self.model, self.optimizer, *_ = zero.initialize(model=model, config=config, optimizer=inner)

    def backward(self, batch: Batch) -> Tensor:
        """Forward, and backward by DeepSpeed; returns the loss."""
        loss: Tensor = self.model(**batch).loss
        self.model.backward(loss)
        return loss.detach()

    def update(self) -> None:
        """Let DeepSpeed clip the gradients and update the parameters."""
        self.model.step()


class Zero1Trainer(ZeroTrainer):
    """ZeRO-1: optimizer states are sharded."""

    stage = "1"


class Zero2Trainer(ZeroTrainer):
    """ZeRO-2: optimizer states and gradients are sharded."""

    stage = "2"


class Zero2PeerTrainer(Zero2Trainer):
    """Plain two-phase caching under the same ZeRO-2; a window has as many tokens as the model has positions."""

    def __init__(self, model: nn.Module) -> None:
        """Take a model that is not attached; of cached_ds only the values for 'auto' in the config are taken."""
        import deepspeed

        from cached_ds import zero
        from cached_ds.settings import deepspeed_config

        inner = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
        config = zero.fill_auto(deepspeed_config.load(CONFIGS / f"zero{self.stage}.json"), model)
        self.model, self.optimizer, *_ = deepspeed.initialize(model=model, config=config, optimizer=inner)

    def backward(self, batch: Batch) -> Tensor:
        """Forward and backward window by window, one reduction; returns the loss."""
        return coalesced.step(self.model, batch, window=self.model.module.config.max_position_embeddings)


class Zero3Trainer(ZeroTrainer):
    """ZeRO-3: optimizer states, gradients and parameters are sharded."""

    stage = "3"


class Zero3OffloadTrainer(ZeroTrainer):
    """ZeRO-3 with all shards in host memory."""

    stage = "3_offload"


def _reduce(_, bucket):  # DDP wants no annotations, or evaluated ones
    """DDP's own reduction, with the result that the reducer asks for and a fake group does not give."""
    dist.all_reduce(bucket.buffer())
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


ALONE, PEER = "alone", "zero2_two_phase"
COMPARED: dict[str, type[AloneTrainer]] = {
    "ddp": DdpTrainer,
    "zero1": Zero1Trainer,
    "zero2": Zero2Trainer,
    "zero3": Zero3Trainer,
    "fsdp2": Fsdp2Trainer,
}  # the engines of scaling.py
TRAINERS = {ALONE: AloneTrainer, PEER: Zero2PeerTrainer, **COMPARED, "zero3_offload": Zero3OffloadTrainer}
TITLES = {"ddp": "DDP", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}
TITLES |= {PEER: "ZeRO-2, plain two-phase caching"}
