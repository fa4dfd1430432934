"""Trains for a long time and looks at what grows (`make soak`).

Two ranks train on documents of random lengths, from one token to twenty thousand. Every few seconds memory, open files
and threads of each rank are read. At the end the run is asked by SIGTERM to save and end. After the first third, memory
may grow by no more than `GROWTH` of itself, and files and threads by none; the exit code is 1 if something does.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from lab import trials, workshop

GROWTH, PAUSE, LONGEST, DOCUMENTS = 0.02, 5.0, 20_000, 400
UNITS = {"memory": 2**20, "files": 1, "threads": 1}


def main():
    """Soak; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=30, help="how long (default: 30)")
    parser.add_argument("--engine", choices=trials.ENGINES, default="zero2")
    arguments = parser.parse_args()
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = workshop.build(Path(name), dropout=0.1)
        lengths = [round(LONGEST ** rng.random()) for _ in range(DOCUMENTS)]
        workshop.write_documents(folder / "train.jsonl", lengths)
        ranks, logs = trials.start(
            folder, folder / "out", arguments.engine, max_steps=10**6, save_steps=500, logging_steps=100,
            enable_jit_checkpoint=True, windows_per_pass=64,
        )  # fmt: skip
        samples = watch(ranks, seconds=60 * arguments.minutes)
        for process in ranks:
            process.terminate()
        trials.wait(ranks)
        output = "".join(log.read_text(errors="replace") for log in logs)
    codes = [process.exitcode for process in ranks]
    if codes != [0, 0] or f"{signal.SIGTERM.name} has come" not in output:
        print(f"exit codes {codes}\n{output[-3000:]}")
        return 1
    return int(any(show(rank, samples[rank]) for rank in range(trials.WORLD)))


def watch(ranks, *, seconds):
    """What each rank holds, every few seconds: a list for each rank of time, memory, files, threads."""
    processes = [psutil.Process(process.pid) for process in ranks]
    begin, samples = time.monotonic(), [[] for _ in ranks]
    while (passed := time.monotonic() - begin) < seconds and all(process.is_alive() for process in ranks):
        for process, found in zip(processes, samples, strict=True):
            held = {"memory": process.memory_info().rss, "files": process.num_fds(), "threads": process.num_threads()}
            found.append({"time": passed} | held)
        time.sleep(PAUSE)
    return samples


def show(rank, samples):
    """Print how each number grows after the first third; returns whether one grows too much."""
    later, grows = samples[len(samples) // 3 :], False
    times = [sample["time"] / 60 for sample in later]
    for name, unit in UNITS.items():
        values = [sample[name] / unit for sample in later]
        slope, _ = statistics.linear_regression(times, values)
        growth, allowed = slope * (times[-1] - times[0]), GROWTH * statistics.mean(values) if name == "memory" else 0.5
        grows |= growth > allowed
        print(f"rank {rank} {name:<8} {values[0]:>9.1f} to {values[-1]:>9.1f}, {slope:+.4f} per minute")
    return grows


if __name__ == "__main__":
    sys.exit(main())
