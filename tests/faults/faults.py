"""Kills training runs and starts them again (`make faults`).

Each run trains a small model on two ranks, with dropout. It is killed with SIGKILL, at a random moment or at a stage of
writing a checkpoint or the trained model, and started again with `--resume_from_checkpoint true`. Its parameters have
to equal those of an undisturbed run, bit for bit. Faults are told with what led to them; the exit code is 1 if there
was one.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from tqdm import tqdm

from lab import killing, trials, workshop

AT_RANDOM = "a random moment"


def main():
    """Kill and resume; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--moments", type=int, default=100, help="kills at random moments (default: 100)")
    parser.add_argument("--each", type=int, default=5, help="kills at each stage of writing (default: 5)")
    parser.add_argument("--engines", nargs="+", choices=trials.ENGINES, default=list(trials.ENGINES[1:]))
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    arguments = parser.parse_args()
    rng, counts, faults = random.Random(arguments.seed), collections.Counter(), 0
    places = [AT_RANDOM] * arguments.moments + list(killing.STAGES) * arguments.each
    with tempfile.TemporaryDirectory() as name:
        folder = workshop.build(Path(name), dropout=0.1)
        undisturbed = {engine: time_of(folder, engine) for engine in arguments.engines}
        for number, place in enumerate(tqdm(places, unit="kill")):
            shifted = number + number // len(killing.STAGES)  # or a stage would always meet the same engines
            engine = arguments.engines[shifted % len(arguments.engines)]
            kill = made_up(place, undisturbed[engine], rng)
            counts[engine, place] += 1
            if fault := fault_of(folder, engine, kill, name=f"run{number}"):
                faults += 1
                tqdm.write(f"{engine}, killed {kill}: {fault}\n")
    show(counts, arguments.engines)
    print(f"{len(places)} runs were killed and resumed, {faults} faults")
    return int(faults > 0)


def time_of(folder, engine):
    """Train undisturbed; returns the seconds that it took the second time, when all is compiled and cached."""
    for _ in range(2):
        begin = time.monotonic()
        codes, output = trials.run(folder, folder / f"undisturbed-{engine}", engine)
        assert codes == [0, 0], output
    return time.monotonic() - begin


def made_up(place, seconds, rng):
    """A kill at this place, of a run that takes so many seconds."""
    if place == AT_RANDOM:
        return trials.Kill(seconds=rng.uniform(0, seconds))
    if place in killing.OF_THE_MODEL:
        return trials.Kill(stage=place)
    rank = 0 if place in killing.OF_RANK_0 else rng.randrange(trials.WORLD)
    return trials.Kill(stage=place, call=rng.randint(1, trials.SAVES), rank=rank)


def fault_of(folder, engine, kill, *, name):
    """Kill a run and resume it; returns what is wrong with its end, or with a model that it left before it; or None."""
    codes, output = trials.run(folder, folder / name, engine, kill=kill)
    if kill.stage is not None and not any(codes):
        return f"it never came there\n{output[-3000:]}"
    if (folder / name / "model.safetensors").exists() and (found := difference(folder, engine, name)):
        return f"the killed run left a model, {found}"
    codes, output = trials.run(folder, folder / name, engine, resume_from_checkpoint=True)
    if codes != [0, 0]:
        return f"exit codes {codes}\n{output[-3000:]}"
    found = difference(folder, engine, name)
    return f"{found}\n{output[-3000:]}" if found else None


def difference(folder, engine, name):
    """How the model of a run differs from that of the undisturbed one; None: not at all."""
    expected, found = trials.weights(folder / f"undisturbed-{engine}"), trials.weights(folder / name)
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    return f"{len(different)} of {len(expected)} parameters differ" if different else None


def show(counts, engines):
    """Print how often each engine was killed where."""
    print(f"{'killed at':<20}" + "".join(f"{engine:>8}" for engine in engines))
    for stage in (AT_RANDOM, *killing.STAGES):
        print(f"{stage:<20}" + "".join(f"{counts[engine, stage]:>8}" for engine in engines))


if __name__ == "__main__":
    sys.exit(main())
