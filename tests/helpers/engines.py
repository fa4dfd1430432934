"""Engines: the same three optimizer steps under plain PyTorch, DDP, FSDP2, ZeRO 0-3, and by the oracle.

Every function here runs on a rank. SGD with a large step, so that a wrong gradient shows and is not normalised away:
benchmarks/subjects/trainers.py trains as users do, with AdamW and ds_configs/, and stays apart for that.
"""

from __future__ import annotations

import functools

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from helpers import oracle, tiny
from helpers.compare import largest, worst_error

LEARNING_RATE, CLIP = 0.5, 1.0
# Weights are rounded to float32 (6e-8) at every step, and sums of 10**3 gradients come in another order: 1e-6 at most.
# A wrong gradient moves some weight by 1e-3 or more (test_published_defects.py has the proof).
FP32 = 1e-5
FP64 = 1e-10  # the same reasoning in float64 gives 1e-15; far below what one float32 operation would cause
SMALL = {"steps": 2, "accumulation": 2, "windows": (1, 7)}
# Without these ZeRO-3 keeps such a tiny model gathered, and there is little to count.
RELEASE = {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
ENGINES = ("plain", "ddp", "fsdp2", "zero0", "zero1", "zero2", "zero3")


def documents(family, *, rank, steps, accumulation, windows=(1, 37), segments=None):
    """`steps` times `accumulation` batches of two documents; the longer one of rank r has `windows[r]` windows.

    `segments` are shares of each document's content; they make more windows.
    """
    special = len(tiny.frame(family, []))
    room = tiny.WINDOW - special
    longest = special + room * windows[rank] - (0 if windows[rank] == 1 else 3)
    shorter = 1 + longest // 3
    lengths = [shorter, longest]
    cut = {} if segments is None else {"segment_lengths": tiny.segments([n - special for n in lengths], segments)}
    return [
        [tiny.make_batch(family, lengths, seed=100 * step + 10 * rank + micro) | cut for micro in range(accumulation)]
        for step in range(steps)
    ]


# DeepSpeed keeps its engines for ever, by default with a bucket of 2 GB each: a rank that has so many cannot fork.
ZERO = {"stage3_param_persistence_threshold": 0, "reduce_bucket_size": 1_000_000}


def ds_settings(stage, accumulation, clip, zero=None, **more):
    """A DeepSpeed config for `stage`; `zero` and `more` are added to its ZeRO section and to its top level."""
    return {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, **ZERO, **(zero or {})},
        **more,
    }


def trainable(model):
    return [p for p in model.parameters() if p.requires_grad]


class Plain:
    """One process, or DDP and FSDP2, which differ in how the model is wrapped."""

    def __init__(self, model, accumulation, clip=CLIP):
        self.inner, self.accumulation, self.clip = model, accumulation, clip
        self.model = self.wrap(model)
        self.optimizer = torch.optim.SGD(trainable(self.model), lr=LEARNING_RATE)

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

        fsdp.shard(model)
        assert all(isinstance(p, DTensor) for p in model.parameters()), "an engine that stays away passes every test"
        return model

    def weights(self):
        return {name: p.detach().full_tensor() for name, p in self.inner.named_parameters()}


class Zero:
    """DeepSpeed at one stage."""

    def __init__(self, stage, model, accumulation, clip=CLIP, **more):
        import deepspeed

        self.optimizer = torch.optim.SGD(trainable(model), lr=LEARNING_RATE)
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
        for parameter in trainable(self.model) if not self.alone else ():
            # One that this rank did not use (LayerDrop) has no gradient, and may have one on another rank.
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
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


def parity(
    family, engine, dropout=0.0, *, steps=3, accumulation=3, windows=(1, 37), segments=None, dtype=torch.float32,
    change=None, settings=None, clip=CLIP, **fields,
):  # fmt: skip
    """Worst relative error of any parameter after `steps` steps, and of any loss on the way.

    `change` is done to the model before anything else, `settings` go to DeepSpeed, `fields` to `attach`.
    """
    from cached_ds import attach

    model = tiny.make_model(family, dropout=dropout, dtype=dtype)
    if change is not None:
        change(model)
    attach(model, window=tiny.WINDOW, **tiny.recipe(family), **fields)
    shape = {"steps": steps, "accumulation": accumulation, "windows": windows, "segments": segments}
    ranks = fields.get("document_parallel", 1)  # that read one document together
    work = documents(family, rank=dist.get_rank() // ranks, **shape)
    losses, weights = train(make_engine(engine, model, accumulation, clip, **(settings or {})), work)
    options = {"dtype": dtype, "change": change, "clip": clip, "per_pass": fields.get("windows_per_pass", 1)}
    expected_losses, expected_weights = by_oracle(
        family, dropout, ranks=ranks, alone=engine == "plain", **shape, **options
    )
    gaps = [abs(a - b) / abs(b) for a, b in zip(losses, expected_losses, strict=True)]
    return largest([worst_error(weights, expected_weights), *gaps])


@functools.cache
def by_oracle(family, dropout, *, ranks, steps, accumulation, windows, segments, dtype, change, clip, per_pass, alone):
    """The oracle's losses and weights; no engine changes them, so all ranks compute them once for all engines."""
    model = tiny.make_model(family, dropout=dropout, dtype=dtype)
    if change is not None:
        change(model)
    shape = {"steps": steps, "accumulation": accumulation, "windows": windows, "segments": segments}
    work = documents(family, rank=dist.get_rank() // ranks, **shape)
    options = {"window": tiny.WINDOW, "per_pass": per_pass, "random": dropout > 0}
    return train(Oracle(model, accumulation, clip, alone=alone, **options), work)


def train(engine, work):
    """Losses of every micro-step and the weights at the end."""
    torch.manual_seed(7)
    losses = [loss for batches in work for loss in engine.step(batches)]
    return losses, engine.weights()
