"""Benchmarks: peers compute what they say, the FLOP model what torch counts; cells, tables and plots hold together."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import longest
import memory
import pytest
import speed
import torch
from harness import cells
from harness.cells import Cell, Machine, Store
from helpers import oracle
from helpers.compare import EXACT, gradients, worst_error
from helpers.repo import ROOT
from peers import EXACT as EXACT_PEERS
from peers import STEPS, full, windows
from probes import flops, matmuls
from reports.results import Limit, Results
from safetensors.torch import save_file
from subjects.shape import Shape, make_batch, make_model
from subjects.variants import CACHED, FLOP_KINDS, NAMES, PEERS
from torch.utils.flop_counter import FlopCounterMode
from workers.one_step import measure

TINY = {"vocabulary": 40, "width": 16, "encoder_layers": 2, "decoder_layers": 2, "heads": 2, "feed_forward": 24}
TINY |= {"window": 16, "target": 6}
SHAPE = Shape(**TINY)
LENGTHS = (16, 17, SHAPE.length_of(windows=3), 61)  # one window; two; no rest; a rest
FIELDS = {"windows_per_pass": 2, "recompute": "all"}
MACHINE = Machine(cores=(0,), timeout=60)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("peer", EXACT_PEERS)
def test_peers_compute_the_gradients_of_the_whole_document(peer, length):
    model, batch = make_model(SHAPE, length=length).double(), make_batch(SHAPE, length=length)
    loss = STEPS[peer](model, batch, window=SHAPE.window)
    reference = make_model(SHAPE, length=length).double()
    expected = oracle.loss(reference, batch, window=SHAPE.window)
    expected.backward()
    assert worst_error(gradients(model), gradients(reference)) < EXACT
    assert loss.item() == pytest.approx(expected.item(), rel=EXACT)


@pytest.mark.parametrize("peer", ["full", "checkpointing"])
def test_windows_folded_into_the_batch_change_nothing(peer):
    models = [make_model(SHAPE, length=61).double() for _ in range(2)]
    for model, together in zip(models, (1, 3), strict=True):
        STEPS[peer](model, make_batch(SHAPE, length=61), window=SHAPE.window, together=together)
    assert worst_error(*map(gradients, models)) < EXACT


@pytest.mark.parametrize("peer", [name for name in PEERS if name not in EXACT_PEERS])
def test_the_other_peers_train(peer):
    model = make_model(SHAPE, length=61, led=peer == "led")
    assert STEPS[peer](model, make_batch(SHAPE, length=61), window=SHAPE.window).isfinite()
    assert all(gradient.any() for name, gradient in gradients(model).items() if "q_proj.weight" in name)


@pytest.mark.parametrize("length", LENGTHS)
def test_window_widths_are_those_of_the_windows(length):
    widths = [piece.tokens.shape[1] for piece in windows.cut(make_batch(SHAPE, length=length)["input_ids"], window=16)]
    assert SHAPE.window_widths(length) == {width: widths.count(width) for width in widths}


@pytest.mark.parametrize("length", LENGTHS)
def test_the_flop_model_counts_what_torch_counts(length):
    model, batch = make_model(SHAPE, length=length), make_batch(SHAPE, length=length)
    model.set_attn_implementation("eager")  # torch does not count the CPU's fused attention
    with FlopCounterMode(display=False) as counter:
        full.step(model, batch, window=SHAPE.window)
    assert flops.step(SHAPE, length, "full", fused=False) == pytest.approx(counter.get_total_flops())


def test_the_matmuls_alone_are_the_flops_of_the_encoder():
    work = flops.encoder(SHAPE, SHAPE.window)
    there, back = matmuls.encoder_forward(SHAPE, 16), matmuls.encoder_backward(SHAPE, 16)
    assert sum(each.flops for each in [*there, *back]) == work.step(1, fused=True)
    for each in [*there, *back]:
        a, b = each.operands()
        assert (a.shape, b.shape) == ((each.batch, each.m, each.k), (each.batch, each.k, each.n))
        assert (a.is_contiguous(), b.is_contiguous()) == ("a" not in each.transposed, "b" not in each.transposed)


@pytest.mark.parametrize("variant", ["full", "checkpointing", "cached"])
def test_saved_bytes_are_those_of_the_issue(variant):
    shape = {**TINY, "encoder_layers": 1, "width": 32, "window": 128}  # H is larger than anything else
    settings = {"variant": variant, "length": 1000, "fields": FIELDS if variant == "cached" else {}, "shape": shape}
    found = measure(settings | {"probe": "saved"})
    states = 32 * 4  # plain cross-attention keeps H and each layer's keys and values
    assert found["saved_per_token"] == states * (1 + 2 * SHAPE.decoder_layers if variant == "full" else 1)


def test_a_cell_runs_in_a_fresh_process_and_reports_everything():
    settings = {"variant": "cached", "length": 61, "fields": FIELDS, "shape": TINY, "probe": "matmuls"}
    found = cells.run(Cell(settings), MACHINE)
    assert {"seconds", "peak_bytes", "model_bytes", "loss", "gradient_norm", "gradient_bytes"} <= found.keys(), found
    assert found["encoder_forward"] + found["encoder_backward"] < found["seconds"]
    assert len(found["matmuls"]) == 2 and found["peak_bytes"] > found["gradient_bytes"] > 0
    assert "more than" in cells.run(Cell(settings), dataclasses.replace(MACHINE, timeout=0.5))["failed"]
    settings |= {"variant": "full", "fields": {}, "shape": {**TINY, "vocabulary": 10**8}}
    assert cells.run(Cell(settings), dataclasses.replace(MACHINE, memory_gib=3))["failed"] == "out of memory"


def test_the_two_runs_of_the_longest_document_are_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(longest, "RUNS", {"one": FIELDS, "two": {"windows_per_pass": 1}})
    command = ["longest.py", "--tokens", "61", "--output_dir", str(tmp_path), "--shape", cells.json.dumps(TINY)]
    monkeypatch.setattr(sys, "argv", command)
    assert longest.main() == 0, capsys.readouterr().out
    assert (tmp_path / "longest.md").read_text(encoding="utf-8").count("| one |") == 1
    assert len(cells.json.loads((tmp_path / "longest.json").read_text(encoding="utf-8"))["cells"]) == 2


def test_gradients_that_differ_are_found(tmp_path):
    same, other = {"a": torch.ones(3), "b": torch.zeros(2)}, {"a": torch.tensor([1.0, 1.0, 1.1]), "b": torch.zeros(2)}
    save_file(same, tmp_path / "1"), save_file(other, tmp_path / "2")
    error, name = longest.worst_error(tmp_path / "1", tmp_path / "2")
    assert name == "a" and error == pytest.approx(0.1 / 3**0.5)


def made_up(plan, results):
    return [
        {"script": cell.script, "round": cell.round, "settings": cell.settings, "result": results(cell.settings)}
        for cell in plan
    ]


def arguments(**values):
    defaults = {"shape": {}, "cached_fields": {}, "variants": NAMES, "lengths": [4096, 16384], "rounds": [2, 1]}
    return argparse.Namespace(**defaults | values)


def speeds(settings):
    if settings["variant"] == "led":
        return {"failed": "out of memory"}
    seconds = settings["length"] / (100 if settings["variant"] == "cached" else 80)
    alone = {"forward": seconds / 5, "backward": seconds / 3, "rate": 1e11}
    inside = {"encoder_forward": seconds / 4, "encoder_backward": seconds / 2, "matmuls": [alone, alone]}
    return {"seconds": seconds, "cpu_seconds": seconds} | (inside if settings["probe"] == "matmuls" else {})


def test_speed_says_what_was_measured(tmp_path):
    plan = speed.plan(arguments(cached_fields={"windows_per_pass": 1}))  # the one whose graph is kept
    assert [cell.settings["variant"] for cell in plan[: len(NAMES)]] == list(NAMES), "interleaved"
    rows = made_up(plan, speeds)
    text = speed.table(rows, Shape())
    assert "| 4K | LED, HF gradient checkpointing | out of memory | – | – | – |" in text
    assert "| 16K | full backpropagation | 204.8 | 0.800 | 80 |" in text
    assert "| 16K | 122.9 | 118.2 | 96 % | 100 |" in text
    assert all(limit.passed for limit in speed.limits(rows))
    slow = made_up(
        plan, lambda settings: speeds(settings) | ({"seconds": 999.0} if settings["length"] == 16384 else {})
    )
    assert not all(limit.passed for limit in speed.limits(slow))
    assert not speed.disturbed(rows, 1) and len(speed.disturbed(slow, 1)) == len(NAMES) - 1  # LED failed
    speed.plots.speed(Results(rows), Shape(), tmp_path / "speed.png", model_seconds=speed.model_seconds)
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def memories(settings):
    grows = {"cached": 6000, "cached_disk": 20}.get(settings["variant"], 40000)
    saved = 3072.0 if settings["variant"] == "cached" else 39936.0
    return (
        {"peak_bytes": grows * settings["length"] + 2**29, "cpu_seconds": 0.005 * settings["length"]}
        if settings["probe"] == "step"
        else {"saved_per_token": saved}
    )


def test_memory_says_what_was_measured(tmp_path):
    plan = memory.plan(arguments(lengths=[16384, 65536], rounds=1, peer_limit=None, saved_length=8192))
    rows = made_up(plan, memories)
    text = memory.table(rows)
    assert "| full backpropagation | 1,137 | – | – | 5.00 |" in text
    assert "| **cached_ds** | 606 | 887 | 6,000 | 5.00 → 5.00 |" in text
    assert "| **cached_ds** | 3,072 | 3,072 | 3,072 |" in text
    assert all(limit.passed and limit.value is not None for limit in memory.limits(rows, Shape()))
    assert "FAIL" in Limit("x", 2.0, 1.0).line() and "PASS" in Limit("x", 2.0, 1.0, at_least=True).line()
    memory.plots.memory(memory.split(rows)[0], memory.saved_bytes(memory.split(rows)[1]), tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 10_000


def test_a_store_goes_on_where_it_stopped(tmp_path):
    path, settings = tmp_path / "x.json", {"variant": "full", "length": 1}
    store = Store(path, resume=True, about={})
    store.add(Cell(settings), {"seconds": 1.0})
    store.add(Cell({**settings, "length": 2}), {"failed": "out of memory"})
    assert store.find(Cell({**settings, "length": 2}, round=1)) == {"failed": "out of memory"}, "not tried again"
    again = Store(path, resume=True, about={})
    assert again.find(Cell(settings)) == {"seconds": 1.0} and again.find(Cell(settings, round=1)) is None
    assert again.find(Cell({**settings, "length": 2})) is None, "a failure is tried again by --resume"
    assert Store(path, resume=False, about={}).rows == []


def test_a_table_is_written_even_if_nothing_was_left_to_run(tmp_path):
    written, done, new = [], Cell({"length": 1}), Cell({"length": 2})
    (store := Store(tmp_path / "x.json", resume=True, about={})).add(done, {"seconds": 1.0})

    def go_on(*planned):
        cells.run_all(planned, Machine(), store, after_each=lambda rows: written.append(len(rows)), run=lambda *_: {})

    go_on(done)
    assert written == [1]
    go_on(done, new)
    assert written == [1, 1, 2]


def test_every_variant_has_its_words():
    assert set(STEPS) == set(PEERS) and set(NAMES) == set(PEERS) | set(CACHED)
    assert set(FLOP_KINDS) == set(NAMES) - {"led"} and set(FLOP_KINDS.values()) <= flops.FORWARDS.keys()


def test_a_benchmark_that_is_killed_leaves_no_cell_behind(tmp_path):
    settings = {"variant": "full", "length": 100_000, "fields": {}, "shape": {}, "probe": "step"}
    code = (
        f"import os, sys, json; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); from harness import cells; "
        f"cells.run(cells.Cell({settings!r}), cells.Machine(1, tuple(os.sched_getaffinity(0))[:1], 60, 20))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    deadline = time.monotonic() + 30
    while not (found := children.read_text(encoding="ascii").split()):
        assert time.monotonic() < deadline, "no cell was started"
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    while Path(f"/proc/{found[0]}/cmdline").exists():
        assert time.monotonic() < deadline, "the cell lives on"
        time.sleep(0.1)
