"""Half precision under engines: bf16 by ZeRO and FSDP2, fp16 with DeepSpeed's loss scaler."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy

from cached_ds import attach, fsdp
from helpers import engines, tiny

# A rounding to bf16 is 2**-9 = 0.2%; some 100 of them lie behind a gradient and mostly cancel: sqrt(100) x 0.2% = 2%.
BF16 = 0.05
FP16 = 0.01  # 2**-12 a rounding: eight times finer
NO_CLIP = 1e9


def rounded_model():
    """float32, with weights that bf16 can hold: all start at the same point."""
    return tiny.make_model("bart", dtype=torch.bfloat16).float()


class Bf16Fsdp2(engines.Fsdp2):
    """FSDP2 that computes in bf16, and reduces and keeps float32."""

    def wrap(self, model):
        return fsdp.shard(model, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))


class MasterZero(engines.Zero):
    """DeepSpeed in half precision; its weights are the float32 master weights."""

    def weights(self):
        from deepspeed.utils import safe_get_full_fp32_param

        return {name: safe_get_full_fp32_param(p).clone() for name, p in self.inner.named_parameters()}


def update(engine, start, work):
    """All parameters' change in one step, as one vector."""
    _, weights = engines.train(engine, work)
    return torch.cat([(weights[name] - start[name]).flatten() for name in start])


def gap(make, *, accumulation=2, ranks_per_document=1):
    """Relative error of the first step against the float32 oracle's."""
    reader = dist.get_rank() // ranks_per_document
    start = {name: p.detach().clone() for name, p in rounded_model().named_parameters()}
    work = engines.documents("bart", rank=reader, steps=1, accumulation=accumulation, windows=(7, 1))
    model = attach(rounded_model(), window=tiny.WINDOW, document_parallel=ranks_per_document)
    found = update(make(model), start, work)
    exact = engines.Oracle(rounded_model(), accumulation, NO_CLIP, alone=False, window=tiny.WINDOW)
    expected = update(exact, start, work)
    return ((found - expected).norm() / expected.norm()).item()


def bf16_gap(engine, **options):
    if engine == "fsdp2":
        return gap(lambda model: Bf16Fsdp2(model, 2, NO_CLIP), **options)
    return gap(lambda model: MasterZero(int(engine[-1]), model, 2, NO_CLIP, bf16={"enabled": True}), **options)


@pytest.mark.parametrize("ranks_per_document", [1, 2])
@pytest.mark.parametrize("engine", ["fsdp2", "zero1", "zero2", "zero3"])
def test_bf16_gradients_are_those_of_float32_up_to_rounding(zero_ranks, engine, ranks_per_document):
    found = zero_ranks.run(bf16_gap, engine=engine, ranks_per_document=ranks_per_document)
    assert 1e-4 < max(found) < BF16  # below, it did not compute in bf16


def fp16_gap(stage):
    from deepspeed.accelerator import get_accelerator

    scaler = {"enabled": True, "loss_scale": 0, "initial_scale_power": 8}
    with pytest.MonkeyPatch.context() as patch:
        # torch computes fp16 on any CPU, if slowly; DeepSpeed asks whether the CPU has instructions for it.
        patch.setattr(get_accelerator(), "is_fp16_supported", lambda: True)
        return gap(lambda model: MasterZero(stage, model, 2, NO_CLIP, fp16=scaler))


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_fp16_gradients_are_those_of_float32_up_to_rounding(zero_ranks, stage):
    found = zero_ranks.run(fp16_gap, stage=stage)
    assert 1e-5 < max(found) < FP16
