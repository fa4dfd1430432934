"""Parity under engines with options: accumulation, frozen parts, untied weights, offload, kept graphs, own wrapping."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import cached_ds
from helpers import engines, tiny
from helpers.compare import worst_error
from helpers.engines import FP32, SMALL

OFFLOAD = {
    "zero": {"offload_optimizer": {"device": "cpu", "pin_memory": False}},
    "zero_force_ds_cpu_optimizer": False,  # the optimizer is ours, SGD, not DeepSpeed's Adam for the CPU
}


def freeze_encoder(model):
    """The encoder, and with it the embeddings it shares."""
    model.get_encoder().requires_grad_(False)


def untie(model):
    """Embeddings of encoder, decoder and head of their own; `shared` is then used by nothing."""
    for module in (model.get_encoder().embed_tokens, model.get_decoder().embed_tokens, model.lm_head):
        module.weight = nn.Parameter(module.weight.detach().clone())
    model.get_input_embeddings().weight.requires_grad_(False)
    model.config.tie_word_embeddings = False


OPTIONS = {
    "no-accumulation": {"accumulation": 1},
    "equal-windows": {"windows": (5, 5)},
    "more-windows-on-rank-0": {"windows": (7, 1)},
    "segments": {"segments": ((0.5, 0.5), (0.05, 0.8, 0.15))},
    "untied": {"change": untie},
    "frozen-encoder": {"change": freeze_encoder},
    "keep-2": {"recompute": 2},
    "keep-all": {"recompute": 1000, "windows_per_pass": 3},
}


def check(pool, engine, **options):
    assert max(pool.run(engines.parity, family="bart", engine=engine, dropout=0.1, **{**SMALL, **options})) < FP32


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "zero1", "zero3"])
def test_options(zero_ranks, engine, option):
    check(zero_ranks, engine, **OPTIONS[option])


@pytest.mark.parametrize("engine", ["zero2", "zero3"])
def test_optimizer_offload_to_the_cpu(zero_ranks, engine):
    check(zero_ranks, engine, settings=OFFLOAD)


def test_parameter_offload_to_the_cpu(zero_ranks):
    parameters = {"offload_param": {"device": "cpu", "pin_memory": False}}
    check(zero_ranks, "zero3", settings={**OFFLOAD, "zero": {**OFFLOAD["zero"], **parameters}})


class OfSampled(engines.Oracle):
    """An attached model whose windows are sampled; gradients are averaged over the ranks by hand."""

    micro_step = engines.Plain.micro_step


def sampled(engine):
    """Worst relative error of a weight, for an engine and two steps with sampled windows."""
    found = []
    for make in (functools.partial(engines.make_engine, engine), functools.partial(OfSampled, alone=False)):
        model = tiny.make_model("bart", dropout=0.1)
        cached_ds.attach(model, window=tiny.WINDOW, sampled_windows=2)
        found.append(engines.train(make(model, 2), engines.documents("bart", rank=dist.get_rank(), **SMALL))[1])
    return worst_error(*found)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "zero2", "zero3"])
def test_sampled_windows(zero_ranks, engine):
    assert max(zero_ranks.run(sampled, engine=engine)) < FP32


class ByInitialize(engines.Zero):
    """`cached_ds.zero.initialize` on a model that is not attached, with a config that says 'auto'."""

    def __init__(self, stage, model, accumulation):
        self.inner, self.optimizer = model, torch.optim.SGD(model.parameters(), lr=engines.LEARNING_RATE)
        settings = engines.ds_settings(stage, accumulation, "auto")  # 1.0, as the oracle clips
        cached = cached_ds.CachedConfig(window=tiny.WINDOW)
        self.model, *_ = cached_ds.zero.initialize(
            model=model, config=settings, cached=cached, optimizer=self.optimizer
        )


class ByClassNames(engines.Fsdp2):
    """FSDP2 as accelerate does it: every module whose class is named, then the root."""

    def wrap(self, model):
        names = cached_ds.fsdp.wrap_classes(model)
        assert names == ["WindowedBartEncoder", "BartDecoderLayer"]
        for module in reversed(list(model.modules())):
            if type(module).__name__ in names:
                fully_shard(module)
        return fully_shard(model)


def own_parity(make, *, change=None, attached=True):
    """Like engines.parity, around an engine of this file."""
    model, reference = tiny.make_model("bart"), tiny.make_model("bart")
    for each in (model, reference):
        if change is not None:
            change(each)
    if attached:
        cached_ds.attach(model, window=tiny.WINDOW)
    work = engines.documents("bart", rank=dist.get_rank(), **SMALL)
    _, found = engines.train(make(model), work)
    expected = engines.Oracle(reference, SMALL["accumulation"], alone=False, window=tiny.WINDOW)
    return worst_error(found, engines.train(expected, work)[1])


def by_initialize(stage):
    return own_parity(lambda model: ByInitialize(stage, model, SMALL["accumulation"]), attached=False)


def by_class_names():
    return own_parity(lambda model: ByClassNames(model, SMALL["accumulation"]), change=untie)


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_initialize_attaches_and_fills_auto_values_in(zero_ranks, stage):
    assert max(zero_ranks.run(by_initialize, stage=stage)) < FP32


def test_fsdp_units_by_class_names(ranks):
    assert max(ranks.run(by_class_names)) < FP32


def initialize_twice():
    model = cached_ds.attach(tiny.make_model("bart"), window=tiny.WINDOW)
    with pytest.raises(ValueError, match="attached already: leave `cached` out"):
        cached_ds.zero.initialize(model=model, config=engines.ds_settings(2, 1, 1.0), cached=cached_ds.CachedConfig())


def test_zero_initialize_refuses_two_configs(zero_ranks):
    zero_ranks.run(initialize_twice)
