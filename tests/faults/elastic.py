"""Resumes runs under every other engine and on other numbers of ranks (`make elastic`).

Each source trains to its end and leaves a checkpoint on its way, from which every target goes on. The losses of the
next five steps have to be those of the source within 1e-6. Pairs that differ are told; the exit code is 1 if there was
one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from lab import trials, workshop

DOCUMENTS, BEGIN, STEPS, TOLERANCE = 4, 2, 7, 1e-6
LENGTHS = (9, 12, 14, 40, 100, 120, 180, 260, 270, 350, 400, 500)


def main():
    """Try all pairs; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--engines", nargs="+", choices=trials.ENGINES, default=list(trials.ENGINES))
    parser.add_argument("--ranks", nargs="+", type=int, choices=(1, 2, 4), default=[1, 2, 4])
    arguments = parser.parse_args()
    kinds = list(itertools.product(arguments.engines, arguments.ranks))
    faults, worst = 0, 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = build(Path(name))
        for kind in tqdm(kinds, desc="sources", unit="run"):
            train(folder, folder / path(kind), kind)
        for source, target in tqdm(list(itertools.permutations(kinds, 2)), unit="pair"):
            codes, output = go_on(folder, folder / path(source), folder / "resumed", target)
            error = difference(folder / path(source), folder / "resumed") if not any(codes) else None
            worst = max(worst, error or 0.0)
            if error is None or error > TOLERANCE:
                faults += 1
                tqdm.write(f"{path(source)} to {path(target)}: {codes=} {error=}\n{output[-1500:]}\n")
    print(f"{len(kinds) * (len(kinds) - 1)} pairs, {faults} faults, losses differ by {worst:.1e} at most")
    return int(faults > 0)


def build(folder):
    """A workshop whose epoch is a whole number of steps: on some numbers of ranks a step's rest would be filled up."""
    workshop.build(folder)
    workshop.write_documents(folder / "train.jsonl", LENGTHS)
    return folder


def path(kind):
    """The name of an engine with its ranks."""
    return "{}x{}".format(*kind)


def train(folder, output, kind, **changes):
    """Train under an engine on so many ranks, all with as many documents per step; returns exit codes and output."""
    engine, ranks = kind
    changes = {"max_steps": STEPS, "save_steps": BEGIN, "save_total_limit": None,
               "gradient_accumulation_steps": DOCUMENTS // ranks} | changes  # fmt: skip
    return trials.run(folder, output, engine, world=ranks, **changes)


def go_on(folder, source, output, kind, *, step=BEGIN, **changes):
    """Resume a copy of a run's checkpoint under another engine, or with other flags."""
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(source / f"checkpoint-{step}", output / f"checkpoint-{step}")
    return train(folder, output, kind, resume_from_checkpoint=True, **changes)


def difference(one, other):
    """By how much the losses of two runs differ at most, at any step."""
    pairs = zip(losses(one), losses(other), strict=True)
    return max(abs(first - second) for first, second in pairs)


def losses(output):
    """The loss of every step, those before the run went on among them."""
    state = json.loads((output / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


if __name__ == "__main__":
    sys.exit(main())
