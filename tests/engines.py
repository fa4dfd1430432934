"""Engines: the same three optimizer steps under plain PyTorch, DDP, FSDP2, ZeRO 0-3, and by the oracle.

Every function here runs on a rank. SGD with a large step, so that a wrong gradient shows and is not normalised away.
"""

from __future__ import annotations

import copy

import oracle
import tiny
import torch
import torch.distributed as dist

LEARNING_RATE, CLIP = 0.5, 1.0
ENGINES = ("plain", "ddp", "fsdp2", "zero0", "zero1", "zero2", "zero3")


def documents(family, *, rank, steps, accumulation, windows=(1, 37)):
    """steps x accumulation batches of two documents; rank 0 has 1 window in all but the second, rank 1 has 37."""
    special = len(tiny.frame(family, []))
    room = tiny.WINDOW - special
    longest = special + room * windows[rank] - (0 if windows[rank] == 1 else 3)
    shorter = 1 + longest // 3
    return [
        [tiny.make_batch(family, [shorter, longest], seed=100 * step + 10 * rank + micro) for micro in range(accumulation)]
        for step in range(steps)
    ]


def ds_settings(stage, accumulation, clip, **more):
    """A DeepSpeed config for `stage`."""
    return {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        **more,
    }


class Plain:
    """One process, or DDP and FSDP2, which differ in how the model is wrapped."""

    def __init__(self, model, accumulation, clip=CLIP):
        self.inner, self.accumulation, self.clip = model, accumulation, clip
        self.model = self.wrap(model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE)

    def wrap(self, model):
        return model

    def step(self, batches):
        losses = [self.micro_step(batch) for batch in batches]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def micro_step(self, batch):
        loss = self.model(**batch).loss
        (loss / self.accumulation).backward()
        return loss.item()

    def weights(self):
        return {name: p.detach().clone() for name, p in self.inner.named_parameters()}


class Ddp(Plain):
    def wrap(self, model):
        return torch.nn.parallel.DistributedDataParallel(model)


class Fsdp2(Plain):
    def wrap(self, model):
        from cached_ds import fsdp

        return fsdp.shard(model)

    def weights(self):
        return {name: p.detach().full_tensor() for name, p in self.inner.named_parameters()}


class Zero:
    """DeepSpeed at one stage."""

    def __init__(self, stage, model, accumulation, clip=CLIP, **more):
        import deepspeed

        self.optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
        settings = ds_settings(stage, accumulation, clip, **more)
        self.inner = model
        self.model, *_ = deepspeed.initialize(model=model, optimizer=self.optimizer, config=settings)

    def step(self, batches):
        return [self.micro_step(batch) for batch in batches]

    def micro_step(self, batch):
        loss = self.model(**batch).loss
        self.model.backward(loss)
        self.model.step()
        return loss.item()

    def weights(self):
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.inner.parameters())):
            return {name: p.detach().clone() for name, p in self.inner.named_parameters()}


class Oracle(Plain):
    """The full graph; gradients are averaged over the ranks by hand."""

    def __init__(self, model, accumulation, clip=CLIP, *, alone, **options):
        super().__init__(model, accumulation, clip)
        self.alone, self.options = alone, options

    def micro_step(self, batch):
        loss = oracle.loss(self.model, batch, **self.options)
        (loss / self.accumulation).backward()
        return loss.item()

    def step(self, batches):
        losses = [self.micro_step(batch) for batch in batches]
        for parameter in self.model.parameters():
            if parameter.grad is not None and not self.alone:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses


def make_engine(name, model, accumulation, clip=CLIP, **more):
    """An engine around an attached model."""
    if name.startswith("zero"):
        return Zero(int(name[-1]), model, accumulation, clip, **more)
    return {"plain": Plain, "ddp": Ddp, "fsdp2": Fsdp2}[name](model, accumulation, clip)


def relative_errors(found, expected):
    """Relative error of every parameter, in the Euclidean norm."""
    assert found.keys() == expected.keys()
    return {name: ((found[name] - expected[name]).norm() / expected[name].norm()).item() for name in expected}


def parity(family, engine, dropout, *, steps=3, accumulation=3, dtype=torch.float32, **fields):
    """Worst relative error of any parameter after `steps` steps, and of any loss on the way."""
    from cached_ds import attach

    rank = dist.get_rank()
    model = tiny.make_model(family, dropout=dropout, dtype=dtype)
    reference = copy.deepcopy(model)
    attach(model, window=tiny.WINDOW, **fields)
    work = documents(family, rank=rank, steps=steps, accumulation=accumulation)
    options = {"window": tiny.WINDOW, "per_pass": fields.get("windows_per_pass", 1), "random": dropout > 0}
    found = _train(make_engine(engine, model, accumulation), work)
    expected = _train(Oracle(reference, accumulation, alone=engine == "plain", **options), work)
    losses = max(abs(a - b) / abs(b) for a, b in zip(found[0], expected[0], strict=True))
    return max(*relative_errors(found[1], expected[1]).values(), losses)


def _train(engine, work):
    torch.manual_seed(7)
    losses = [loss for batches in work for loss in engine.step(batches)]
    return losses, engine.weights()
