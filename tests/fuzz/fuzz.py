"""Tries made-up inputs on launch/train.py for as long as it is told (`make fuzz FLAGS="--minutes 30"`).

Every fault is told with the input that led to it, and at the end their number; the exit code is 1 if there was one.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

import corpus
import inputs
from hypothesis.errors import NonInteractiveExampleWarning
from tqdm import tqdm

from lab import workshop
from lab.forking import ForkingTrainer


def main():
    """Fuzz; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--kind", choices=inputs.KINDS, help="one kind of inputs only (default: all)")
    parser.add_argument("--corpus", type=int, help="only draw so many inputs of each kind anew for the suite's own run")
    arguments = parser.parse_args()
    if arguments.corpus:
        corpus.write([made_up(kind) for kind in inputs.KINDS for _ in range(arguments.corpus)])
        return 0
    kinds = [arguments.kind] if arguments.kind else list(inputs.KINDS)
    end, faults = time.monotonic() + 60 * arguments.minutes, 0
    with tempfile.TemporaryDirectory() as folder, tqdm(unit="input") as bar:
        (work := Path(folder, "work")).mkdir()
        with ForkingTrainer(workshop.build(Path(folder)), work) as trainer:
            while time.monotonic() < end:
                attempts = [made_up(random.choice(kinds)) for _ in range(os.cpu_count() or 1)]
                for attempt, outcome in zip(attempts, trainer.run(*attempts), strict=True):
                    bar.update()
                    if fault := outcome.fault():
                        faults += 1
                        bar.write(f"{fault}: {attempt}\n{outcome.output[-1500:]}\n")
    print(f"{bar.n} inputs, {faults} faults")
    return int(faults > 0)


def made_up(kind):
    """An input of this kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonInteractiveExampleWarning)  # no test is at work, and that is meant
        return inputs.KINDS[kind]().example()


if __name__ == "__main__":
    sys.exit(main())
