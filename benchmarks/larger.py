"""Larger models: shapes beyond BART-large, which one process of a given memory cannot train and several ranks can.

    make larger      # or: .venv/bin/python benchmarks/larger.py [--ranks 2 4]

Each model takes a few steps of AdamW on one document: in one process without a limit; in one that may allocate no more
than the model's `memory`, which is to fail; then on `--ranks` processes with that limit each, under ZeRO-3 with offload
and FSDP2, both with the layer schedule. Ranks share the cores: memory is compared, not time. The losses must be those
of one process. Prints the table and PASS or FAIL, writes larger.md and larger.json; exits with 1 where a promise is
broken.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from harness.benchmark import Benchmark, add_trial_flags, flag_parser
from harness.machine import Machine, all_cores
from harness.runners import LocalRunner
from harness.trials import Result, Trial
from reports.results import Promise, Row, markdown
from subjects.shape import Shape, make_model
from subjects.trainers import ALONE

SCRIPT, STEPS, WINDOWS, GIB = "larger_step.py", 3, 2, 2**30
ENGINE_TITLES = {"zero3_offload": "ZeRO-3, offload", "fsdp2": "FSDP2"}
TITLES = {ALONE: "one process", **ENGINE_TITLES}
TOLERANCE = 1e-5  # relative, of a loss in float32
SHARE = 0.8  # a rank's peak on the most ranks / that of one process
STATES = ("parameters", "gradients", "optimizer", "master")


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """What is trained.

    Attributes:
        title: of the whole model.
        shape: what is trained here.
        layers: of encoder and of decoder in the whole model.
        memory: GiB that a process may allocate.
    """

    title: str
    shape: dict[str, int]
    layers: int
    memory: float
    led: bool = False


@functools.cache  # every line of the table asks
def parameters(model: Model, layers: int) -> int:
    """How many parameters a model has with so many layers in encoder and decoder."""
    shape = replace(Shape(**model.shape), encoder_layers=layers, decoder_layers=layers)
    with torch.device("meta"):
        return sum(p.numel() for p in make_model(shape, length=shape.window, led=model.led).parameters())


COMMON = {"window": 256, "target": 32}
WIDE = {"width": 2048, "heads": 32, "feed_forward": 8192, "encoder_layers": 2, "decoder_layers": 2, **COMMON}
LARGE = {"width": 1024, "heads": 16, "feed_forward": 4096, "encoder_layers": 12, "decoder_layers": 12, **COMMON}
MODELS = (
    Model(title="BART, 24+24 layers, 2048 wide", shape=WIDE, layers=24, memory=5.75),
    Model(title="LED-large, 12+12 layers, 1024 wide", shape=LARGE, layers=12, memory=6, led=True),
)


def plan(model: Model, ranks: list[int]) -> list[Trial]:
    """One process without and with the limit, then every number of ranks under every engine."""
    alone = [_trial(model, ALONE, 1, memory=memory) for memory in (None, model.memory)]
    return alone + [_trial(model, variant, count, memory=model.memory) for count in ranks for variant in ENGINE_TITLES]


def _trial(model: Model, variant: str, ranks: int, *, memory: float | None) -> Trial:
    length = Shape(**model.shape).length_of(windows=WINDOWS)
    what = {"title": model.title, "variant": variant, "ranks": ranks, "memory": memory, "fake": False}
    how = {"length": length, "steps": STEPS, "fields": {"schedule": "layer"}, "shape": model.shape, "led": model.led}
    return Trial(what | how, script=SCRIPT)


def run(trial: Trial, machine: Machine) -> Result:
    """The results of all ranks of a trial, whose processes may allocate as much as it says."""
    memory = trial.settings["memory"] or machine.memory_gib
    return LocalRunner().run(trial, replace(machine, memory_gib=memory))


def table(rows: list[Row]) -> str:
    """A line per trial."""
    header = ("model", "parameters here (of all)", "engine", "ranks", "GiB that a rank may allocate")
    header += ("states per rank, GiB", "peak per rank, GiB", f"losses of {STEPS} steps")
    return markdown(header, [_line(row) for row in rows])


def _line(row: Row) -> list[str]:
    settings, result = row["settings"], row["result"]
    model = next(model for model in MODELS if model.title == settings["title"])
    here, whole = (parameters(model, layers) / 1e6 for layers in (model.shape["encoder_layers"], model.layers))
    limit = f"{settings['memory']:g}" if settings["memory"] else "no limit"
    line = [model.title, f"{here:,.0f} M ({whole:,.0f} M)", TITLES[settings["variant"]], str(settings["ranks"]), limit]
    if "failed" in result:
        return [*line, "–", "–", result["failed"].removeprefix("rank 0: ")]
    losses = ", ".join(f"{loss:.4f}" for loss in result["ranks"][0]["losses"])
    return [*line, f"{states(row) / GIB:.2f}", f"{peak(row) / GIB:.2f}", losses]


def peak(row: Row) -> int:
    """Resident bytes of the largest rank at most, the interpreter and its libraries among them."""
    return max(rank["peak_bytes"] for rank in row["result"]["ranks"])


def states(row: Row) -> int:
    """Bytes of parameters, gradients and optimizer states on the largest rank."""
    return max(sum(rank["state_bytes"][part] for part in STATES) for rank in row["result"]["ranks"])


def promises(rows: list[Row]) -> list[Promise]:
    """Of every model: one process fails, ranks train with the same losses and less memory."""
    by_model = [[row for row in rows if row["settings"]["title"] == model.title] for model in MODELS]
    return [promise for found in by_model for promise in _promises(found)]


def _promises(rows: list[Row]) -> Iterator[Promise]:
    """Those of one model: on the most ranks it must train; on fewer it may need more than the limit."""
    first, second, *others = rows
    title = first["settings"]["title"]
    yield Promise(f"{title}: one process with the limit trains", float("failed" not in second["result"]), 0)
    most = max(row["settings"]["ranks"] for row in others)
    failed = [row for row in (first, *others) if "failed" in row["result"]]
    needed = [row for row in failed if row["settings"]["ranks"] in (1, most)]
    yield Promise(f"{title}: trials without a limit or on {most} ranks that failed", len(needed), 0)
    for variant, name in ENGINE_TITLES.items():
        found = [row for row in others if row["settings"]["variant"] == variant and row not in failed]
        if first in failed or not found:
            continue
        error = _difference(first, found)
        yield Promise(f"{title}, {name}: relative difference of a loss to one process", error, TOLERANCE)
        share = peak(max(found, key=lambda row: row["settings"]["ranks"])) / peak(first)
        yield Promise(f"{title}, {name}: peak per rank on the most ranks / of one process", share, SHARE)


def _difference(one: Row, rows: list[Row]) -> float:
    expected = one["result"]["ranks"][0]["losses"]
    found = [zip(rank["losses"], expected, strict=True) for row in rows for rank in row["result"]["ranks"]]
    return max(abs(loss / wanted - 1) for losses in found for loss, wanted in losses)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = flag_parser(__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="numbers of ranks (default: 2 4)")
    add_trial_flags(parser)
    arguments = parser.parse_args()
    arguments.cores = arguments.cores or all_cores()
    return arguments


def main() -> int:
    """Measure, write, print; returns the exit code."""
    arguments = parse()
    return Benchmark(
        name="larger",
        plan=[trial for model in MODELS for trial in plan(model, arguments.ranks)],
        only_planned=True,  # a changed limit of memory or a failed trial leaves rows of another order in the file
        table=table,
        promises=promises,
    ).measure(arguments, run=run)


if __name__ == "__main__":
    sys.exit(main())
