"""Launches: kernels and waits are counted as they are, and the sizes of a GPU keep the limits."""

from __future__ import annotations

import argparse

import pytest
import torch
from made_up import broken, rows_of

import launches
from probes.kernels import counted, to_device
from workers import launches_step


def test_only_what_reaches_the_device_is_counted_and_what_reads_it_waits():
    here, there = torch.ones(4), torch.ones(4)
    to_device([there])
    with counted() as kernels:
        bool((here + here).all())  # the host's
        bool(torch.rand([]) < 2)  # drawn on the host
        made = torch.zeros(3, device=there.device) + 1
        assert kernels.found.total() == 2 and not kernels.waits
        bool((there.view(2, 2) * 2).all())
        there[there > 0]
        torch._foreach_add_([there, made], [there, made])
    assert kernels.waits == {"_local_scalar_dense": 1, "index": 1}
    assert kernels.found["_foreach_add_"] == 1 and kernels.found["mul"] == 1 and not kernels.found["view"]


@pytest.mark.parametrize("length", [8192, 8192 - 300], ids=["full windows", "a short window at the end"])
def test_a_step_with_the_sizes_of_a_gpu_launches_less_and_never_waits(length, monkeypatch):
    monkeypatch.setattr(launches_step, "SECONDS", 0)  # a few runs are enough here
    shape = {"encoder_layers": 1, "decoder_layers": 1}
    cpu, gpu = (launches_step.measure({"variant": v, "length": length, "shape": shape}) for v in ("cpu", "gpu"))
    assert gpu["waits"] == 0, gpu["waiting"]
    assert 3 * gpu["kernels"] < cpu["kernels"]
    assert gpu["step_ms"] > 0 and gpu["cut_ms"] > 0


def test_the_table_and_its_limits():
    arguments = argparse.Namespace(shape={}, models=["base", "large"], lengths=[16384, 524288], rounds=2)
    found = {"kernels": 50_000, "waits": 0, "step_ms": 400.0, "cut_ms": 20.0}
    rows = rows_of(launches.plan(arguments), lambda _: found)
    assert "| BART-large | 512K | **sizes of a GPU** | 50,000 | 420 | 0 |" in launches.table(rows)
    assert broken(launches.promises(rows)) == []
    slow = rows_of(launches.plan(arguments), lambda _: found | {"kernels": 10**6, "waits": 1, "cut_ms": 200.0})
    assert len(broken(launches.promises(slow))) == 2 + 4
