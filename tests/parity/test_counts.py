"""Counts: what a step costs in encoder forwards and collectives, which must not depend on the number of windows."""

from __future__ import annotations

import collections

import pytest
import torch
import torch.distributed as dist

from cached_ds import attach
from cached_ds.settings import device_sizes
from helpers import engines, tiny
from probes.collectives import Collectives

GATHERS = ("all-gather",)
REDUCTIONS = ("all-reduce", "reduce-scatter", "reduce")


@pytest.mark.parametrize("recompute", ["all", 0, 2, 1000])
@pytest.mark.parametrize("windows_per_pass", [1, 3])
def test_a_pass_is_encoded_twice_and_a_kept_one_once(recompute, windows_per_pass):
    options = {"window": tiny.WINDOW, "windows_per_pass": windows_per_pass, "recompute": recompute}
    model = attach(tiny.make_model("bart"), **options)
    batch = tiny.make_batch("bart", (100, 47))
    model(**batch).loss.backward()
    counters = model.get_encoder()._cached_ds.counters
    assert (counters.tokens_read, counters.windows_read) == (147, 7 + 4)  # 98 and 45 tokens of content, 14 to a window
    passes = {1: 11, 3: 5}[windows_per_pass]  # 10 full windows, and one of less than half, which has its own
    kept = 1 if recompute == "all" else min(recompute, passes)
    assert counters.encoder_forwards == 2 * passes - kept


def test_a_document_of_one_window_is_encoded_once():
    model = attach(tiny.make_model("bart"), window=tiny.WINDOW)
    model(**tiny.make_batch("bart", (tiny.WINDOW,))).loss.backward()
    assert model.get_encoder()._cached_ds.counters.encoder_forwards == 1


def forwards_of_two_windows(engine, schedule):
    """Encoder forwards of a step with two passes, by rank."""
    model = attach(tiny.make_model("bart"), window=tiny.WINDOW, schedule=schedule)
    runner = engines.make_engine(engine, model, 1)
    runner.step([tiny.make_batch("bart", (30,))])
    return model.get_encoder()._cached_ds.counters.encoder_forwards


@pytest.mark.parametrize(
    ("engine", "schedule", "forwards"),
    [("ddp", "window", 3), ("fsdp2", "window", 3), ("zero2", "window", 3), ("zero3", "window", 4), ("ddp", "layer", 4)],
)
def test_a_graph_is_kept_where_it_holds_nothing_but_itself(zero_ranks, engine, schedule, forwards):
    assert zero_ranks.run(forwards_of_two_windows, engine=engine, schedule=schedule) == [forwards] * 2


def test_a_frozen_encoder_and_a_forward_without_grad_encode_once():
    model, batch = attach(tiny.make_model("bart"), window=tiny.WINDOW), tiny.make_batch("bart", (100,))
    with torch.no_grad():
        model(**batch)
    assert model.get_encoder()._cached_ds.counters.encoder_forwards == 7
    model.get_encoder().requires_grad_(False)
    model(**batch).loss.backward()
    assert model.get_encoder()._cached_ds.counters.encoder_forwards == 14


def test_each_gradient_is_accumulated_once_per_backward():
    model, fired = attach(tiny.make_model("bart"), window=tiny.WINDOW), collections.Counter()
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: fired.update([name]))
    for backward in (1, 2):
        model(**tiny.make_batch("bart", (200, 47))).loss.backward()
        assert fired == dict.fromkeys(dict(model.named_parameters()), backward)


def collectives(engine, windows=(1, 1), targets=(6, 6), schedule="window"):
    """Collectives of one step and their bytes, by kind.

    Two steps go before, in which ZeRO-3 learns the order of the modules. Windows and target lengths are given per rank;
    a chunk of the loss has three positions.
    """
    model = attach(tiny.make_model("bart"), window=tiny.WINDOW, schedule=schedule)
    settings = {"zero": engines.RELEASE} if engine == "zero3" else {}
    runner = engines.make_engine(engine, model, 1, **settings)
    shape = {"rank": dist.get_rank(), "accumulation": 1}
    for step in engines.documents("bart", steps=2, windows=(1, 2), **shape):
        runner.step(step)
    (step,) = engines.documents("bart", steps=1, windows=windows, **shape)
    step[0]["labels"] = torch.randint(6, tiny.VOCABULARY, (2, targets[dist.get_rank()]))
    with Collectives() as counter, pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_sizes, "logits_per_chunk", lambda _: 3 * tiny.VOCABULARY)
        runner.step(step)
    return counter.found


def total(found, kinds):
    return sum(found[kind]["count"] for kind in kinds if kind in found)


@pytest.mark.parametrize(
    ("engine", "schedule"),
    [
        *((engine, "window") for engine in ("ddp", "fsdp2", "zero1", "zero2", "zero3")),
        ("fsdp2", "layer"),
        ("zero3", "layer"),
    ],
)
def test_collectives_are_the_same_for_1_and_for_100_windows(zero_ranks, engine, schedule):
    options = {"engine": engine, "schedule": schedule}
    few, many = (zero_ranks.run(collectives, windows=windows, **options) for windows in ((1, 1), (1, 100)))
    assert few == many
    for found in many:
        assert total(found, REDUCTIONS) >= 1
        # Encoder and decoder layers, in forward and in backward; ZeRO-1 and 2 gather the updated weights; DDP nothing.
        assert total(found, GATHERS) >= {"ddp": 0, "zero1": 1, "zero2": 1}.get(engine, 6)


@pytest.mark.parametrize("engine", ["ddp", "fsdp2", "zero1", "zero2", "zero3"])
def test_collectives_are_the_same_for_one_and_for_many_chunks_of_the_target(zero_ranks, engine):
    few, many = (zero_ranks.run(collectives, engine=engine, targets=targets) for targets in ((1, 1), (1, 60)))
    assert few == many
