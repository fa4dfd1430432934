"""Tuning: what is left to the machine is measured once, stays within the budget, and changes no gradient."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from peft import LoraConfig, get_peft_model

from cached_ds import CachedConfig, attach
from cached_ds.attachment import windowed_encoder
from cached_ds.planning import budget
from cached_ds.planning.budget import Budget, fastest_windows_per_pass, free_bytes, graph_bytes
from cached_ds.settings import device_sizes
from helpers import oracle, tiny
from helpers.compare import EXACT, gradients, worst_error

CPU = torch.device("cpu")
BATCH = tiny.make_batch("bart", tiny.LENGTHS)  # 6 + 2 + 1 windows


def attached(dropout=0.0, **fields):
    model = tiny.make_model("bart", dropout=dropout, dtype=torch.float64)
    return attach(model, window=tiny.WINDOW, **fields)


def step(model):
    model.zero_grad()
    torch.manual_seed(7)
    model(**BATCH).loss.backward()
    return gradients(model)


@pytest.fixture(scope="module")
def expected():
    model = tiny.make_model("bart", dtype=torch.float64)
    oracle.loss(model, BATCH, window=tiny.WINDOW).backward()
    return gradients(model)


@pytest.mark.parametrize("limit", [None, 1, "200KB", "1GB"])
@pytest.mark.parametrize("windows", ["auto", 1, 3])
def test_gradients_are_those_of_the_full_graph(windows, limit, expected):
    model = attached(windows_per_pass=windows, recompute="auto", memory_budget=limit)
    assert worst_error(step(model), expected) < EXACT
    assert worst_error(step(model), expected) < EXACT  # from the second on, free memory is measured


@pytest.mark.parametrize(("limit", "schedule", "passes"), [("1GB", "window", 3 + 1), (1, "window", 9), (1, "layer", 4)])
def test_by_default_a_pass_has_as_many_windows_as_such_a_device_is_given_and_as_fit(
    limit, schedule, passes, expected, monkeypatch
):
    monkeypatch.setattr(device_sizes, "windows_per_pass", lambda *_: 3)
    model = attached(memory_budget=limit, schedule=schedule)
    assert worst_error(step(model), expected) < EXACT
    counters, before = (
        windowed_encoder(model)._cached_ds.counters,
        windowed_encoder(model)._cached_ds.counters.encoder_forwards,
    )
    model.eval()(**BATCH)
    assert counters.encoder_forwards - before == passes


def test_a_gpu_is_given_more_at_one_time_than_a_cpu():
    gpu = torch.device("cuda")
    assert [device_sizes.windows_per_pass(each, 1024) for each in (CPU, gpu)] == [1, 32]
    assert device_sizes.windows_per_pass(gpu, 2**20) == 1
    assert device_sizes.tile(gpu) > device_sizes.tile(CPU)
    assert device_sizes.logits_per_chunk(gpu) > device_sizes.logits_per_chunk(CPU)


def test_keys_and_values_are_kept_where_memory_is_ample_and_replayed_with_dropout():
    model = attached(dropout=0.1, recompute="auto", memory_budget="1GB")
    reference = copy.deepcopy(model)
    found = step(model)
    assert windowed_encoder(model)._cached_ds.call.keep_projections
    reference = attach(tiny.make_model("bart", dropout=0.1, dtype=torch.float64), window=tiny.WINDOW)
    assert worst_error(found, step(reference)) < EXACT
    assert not windowed_encoder(reference)._cached_ds.call.keep_projections


def test_the_decision_on_keys_and_values_does_not_outlive_its_call():
    model = attached(recompute="auto", memory_budget="1GB")
    step(model)
    assert windowed_encoder(model)._cached_ds.call.keep_projections
    inputs = {name: value for name, value in BATCH.items() if name != "input_ids"}
    states = torch.randn(*BATCH["input_ids"].shape, tiny.WIDTH, dtype=torch.float64)
    model(encoder_outputs=(states,), **inputs)
    assert not windowed_encoder(model)._cached_ds.call.keep_projections


def test_kept_keys_and_values_and_recomputed_ones_drop_the_same_in_adapters():
    found = []
    for recompute in ("all", "auto"):
        model = tiny.make_model("bart", dropout=0.1, dtype=torch.float64)
        torch.manual_seed(1)
        lora = LoraConfig(target_modules=["k_proj", "v_proj"], lora_dropout=0.5, init_lora_weights=False)
        model = get_peft_model(model, lora)
        found.append(step(attach(model, window=tiny.WINDOW, recompute=recompute, memory_budget="1GB")))
    assert worst_error(*found) < EXACT


def encoder_forwards(model):
    counters = windowed_encoder(model)._cached_ds.counters
    before = counters.encoder_forwards
    step(model)
    return counters.encoder_forwards - before


def test_as_many_passes_are_kept_as_the_budget_holds():
    one = attached(recompute="auto", memory_budget=1)
    step(one)
    size = windowed_encoder(one)._cached_ds.budget.window_bytes
    projections = 2 * 2 * 8 * BATCH["input_ids"].numel() * tiny.WIDTH  # K and V of two layers in float64
    counts = []
    for windows in (0, 2, 5, 100):
        model = attached(recompute="auto", memory_budget=projections + windows * size)
        step(model)  # measures
        counts.append(encoder_forwards(model))
        assert windowed_encoder(model)._cached_ds.call.keep_projections
    assert counts == [17, 16, 13, 9]


def test_keys_and_values_come_before_graphs_of_the_encoder():
    budget_of = Budget(CachedConfig(memory_budget=1000), decoder_layers=1, window_bytes=300)
    kept = {projections: budget_of.choose_saved([1.0] * 3, reserve=0, projections=projections, device=CPU)
            for projections in (0, 400, 999, 1001)}  # fmt: skip
    assert kept == {0: (3, True), 400: (2, True), 999: (0, True), 1001: (3, False)}


def test_casts_of_weights_are_not_counted_with_every_window():
    sizes = []
    for inside in (False, True):
        model = attach(tiny.make_model("bart"), window=tiny.WINDOW, recompute="auto", memory_budget=1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            step(model)
        sizes.append(windowed_encoder(model)._cached_ds.budget.window_bytes)
    weights = sum(parameter.numel() for parameter in model.get_encoder().parameters())
    assert 0 < sizes[1] < 2 * sizes[0] and sizes[1] < sizes[0] + 2 * weights


def test_without_a_budget_the_first_step_keeps_one_and_the_second_what_fits(monkeypatch):
    model = attached(recompute="auto")
    assert encoder_forwards(model) == 18  # one to measure with
    assert encoder_forwards(model) == 9
    monkeypatch.setattr(budget, "free_bytes", lambda _: 0)
    assert encoder_forwards(model) == 17


def test_a_forward_without_grad_decides_nothing():
    model = attached(recompute="auto")
    with torch.no_grad():
        model(**BATCH)
    assert not windowed_encoder(model)._cached_ds.budget.rehearsed


def test_measuring_draws_no_random_numbers():
    def after(**fields):
        model = attached(dropout=0.1, **fields)
        torch.manual_seed(3)
        model(**BATCH)
        return torch.rand(())

    assert torch.equal(after(), after(windows_per_pass="auto", recompute="auto"))


def test_the_choices_are_logged_once(caplog):
    model = attached(windows_per_pass="auto", recompute="auto")
    with caplog.at_level(logging.INFO, logger="cached_ds"):
        for _ in range(4):
            step(model)
    messages = [record.message for record in caplog.records]
    assert [message.split("=")[0] for message in messages] == ["windows_per_pass", "recompute"]
    assert "passes fit" in messages[1]


@pytest.mark.parametrize(
    ("seconds", "limit", "best"),
    [([4, 4, 4], 64, 1), ([4, 3, 2.99, 1], 64, 2), ([4, 3, 2, 1], 64, 8), ([4, 3, 2, 1], 3, 2), ([4, 3], 1, 1)],
)
def test_doubling_goes_on_while_it_pays(seconds, limit, best, monkeypatch):
    timed = dict(zip((1, 2, 4, 8), seconds, strict=False))
    monkeypatch.setattr(budget, "seconds_per_window", lambda _run, count, _device: timed.get(count, 100))
    assert fastest_windows_per_pass(lambda _: None, limit=limit, device=CPU) == best


def test_a_disturbed_trial_does_not_count(monkeypatch):
    trials = iter([1.0, 5.0, 7.0, 0.8, 1.0, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8])
    monkeypatch.setattr(budget, "seconds_per_window", lambda *_: next(trials))
    assert fastest_windows_per_pass(lambda _: None, limit=64, device=CPU) == 2


def test_the_bytes_of_a_graph_are_those_it_keeps():
    weight = torch.randn(10, 10, requires_grad=True)
    inputs = torch.randn(7, 10)
    assert graph_bytes(lambda: (inputs @ weight).exp(), [weight]) == 4 * (70 + 70)  # the input and the exponential
    assert graph_bytes(lambda: inputs @ weight.detach(), [weight]) == 0


def test_free_memory_is_shared_by_the_ranks_of_a_host(monkeypatch):
    alone = free_bytes(CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 0.2 * alone < free_bytes(CPU) < 0.3 * alone


def test_a_budget_bounds_the_windows_of_a_pass():
    seen = []
    found = Budget(CachedConfig(memory_budget=1000), decoder_layers=1, window_bytes=300)
    found.choose_windows(lambda count: seen.append(count), device=CPU)
    assert max(seen) <= 3
