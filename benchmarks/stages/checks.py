r"""Gradients on the device against full backpropagation, kept graphs, and states that stay there.

    PYTHONPATH=benchmarks:. python benchmarks/stages/checks.py '{"check": "parity", "device": "cpu",
        "families": ["bart"], "until": 9e9}'

`check` is a key of CHECKS. As benchmarks/parity.py does, this borrows from tests/: what is checked is what the tests of
a GPU assert, for every family.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

import cached_ds
from cached_ds.decoder.tile_kernels import kernel_for
from stages.rows import Rows, Settings, serve
from subjects.shape import Shape, make_batch, make_model

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from helpers import on_device  # noqa: E402
from helpers.compare import whole_error  # noqa: E402

DTYPES = ("float64", "float32", "bfloat16")
SCHEDULES, PLACES = ("window", "layer"), ("cpu", "disk")
DROPOUT, HEAD = 0.1, 64


def parity(settings: Settings, rows: Rows) -> None:
    """Every family in every precision; beside its error that of full backpropagation in the same precision."""
    for family in settings["families"]:
        for dtype in DTYPES:
            found = on_device.parity(family, getattr(torch, dtype), torch.device(settings["device"]))
            rows.add({"family": family, "dtype": dtype}, found)


def dropout(settings: Settings, rows: Rows) -> None:
    """Every family under both schedules, in float64 and under autocast; then the kernels of every precision."""
    device = torch.device(settings["device"])
    for family in settings["families"]:
        for schedule in SCHEDULES:
            for autocast in (False, True):
                error = on_device.dropout_replay(family, device, schedule=schedule, autocast=autocast)
                dtype = "autocast" if autocast else "float64"
                rows.add({"family": family, "schedule": schedule, "dtype": dtype}, {"error": error})
    for dtype in DTYPES:
        q = torch.empty(1, 2, 40, HEAD, device=device, dtype=getattr(torch, dtype))
        kernel = kernel_for(q, scale=HEAD**-0.5, dropout=DROPOUT)
        error = on_device.kernel_replay(kernel, device, q.dtype, width=HEAD)
        rows.add({"kernel": type(kernel).__name__, "dtype": dtype}, {"error": error})


def offload(settings: Settings, rows: Rows) -> None:
    """Tiny documents in float64, then long ones in float32, several times: copies that take time while others run."""
    device = torch.device(settings["device"])
    for place in PLACES:
        for schedule in SCHEDULES:
            what = {"place": place, "schedule": schedule}
            rows.add({**what, "dtype": "float64"}, {"error": on_device.offload(place, device, schedule=schedule)})
            for number in range(settings["repeats"]):
                error = long_offload(settings, device, **what)
                rows.add({**what, "dtype": "float32"}, {"error": error}, round=number)


def long_offload(settings: Settings, device: torch.device, *, place: str, schedule: str) -> float:
    """Error of the gradients of one long document with its states elsewhere."""
    shape, length = Shape(**settings["shape"]), settings["length"]
    batch: dict[str, Any] = on_device.moved(make_batch(shape, length=length), device)
    fields, found = {"window": shape.window, "tile": settings["tile"], "schedule": schedule}, []
    for where in (place, "none"):
        model = cached_ds.attach(make_model(shape, length=length), offload=where, **fields)
        found.append(on_device.step(model.to(device), batch))
    return whole_error(*found)


CHECKS = {"parity": parity, "dropout": dropout, "offload": offload}


def run(settings: Settings, rows: Rows) -> None:
    """One of the checks."""
    CHECKS[settings["check"]](settings, rows)


if __name__ == "__main__":
    serve(run)
