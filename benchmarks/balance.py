"""Idle share of ranks by order of documents: random, Hugging Face's length grouping, and cached_ds, by simulation.

    make balance      # or: .venv/bin/python benchmarks/balance.py [--ranks 8 64 512] [--seeds 5] [--fixed_tokens 512]

One document per rank and step; a step of `t` tokens takes a rank a + b * t seconds, and all wait for the slowest. a and
b are fitted to the `cached` trials of speed.json; where there are none, a / b is 512 tokens. The decoder's work is part
of a. Lengths are drawn as subjects/lengths.py says, anew for every seed, and there are two epochs per seed.

Beside idle shares stand the time of an epoch against the least that any order of one document per rank and step can
have, and how many of the documents that share a step do so in the next epoch again. Prints a table and PASS or FAIL for
every promise, writes balance.md, balance.json, balance.png; exits with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import RandomSampler, Sampler
from tqdm import tqdm
from transformers.trainer_pt_utils import LengthGroupedSampler

from cached_ds.training.sampler import LengthBalancedSampler
from harness.benchmark import MEASURED, Benchmark, flag_parser
from harness.trials import write_json
from probes.idle import idle_share, rank_times
from reports import plots
from reports.results import Promise, Results, Row, markdown, number
from subjects.lengths import DATA

FIXED_TOKENS = 512
SAMPLERS = ("random", "length grouping", "cached_ds")
TARGET = ("BookSum, chapters", 64)
FEW = ("BookSum, books", 64)  # a step is a fifth of the epoch


def sampler_of(name: str, lengths: Sequence[int], *, num_ranks: int, seed: int) -> Sampler[int]:
    """The samplers as the Trainer makes them; Hugging Face's do not know of ranks."""
    generator = torch.Generator().manual_seed(seed)
    if name == "cached_ds":
        return LengthBalancedSampler(lengths, batch_size=1, num_ranks=num_ranks, seed=seed)
    if name == "length grouping":
        return LengthGroupedSampler(1, lengths=list(lengths), generator=generator)
    return RandomSampler(lengths, generator=generator)


def two_epochs(sampler: Sampler[int]) -> list[list[int]]:
    """The orders of the first two epochs."""
    orders = [list(sampler)]
    if isinstance(sampler, LengthBalancedSampler):
        sampler.set_epoch(1)
    return [*orders, list(sampler)]


def step_model(path: Path) -> tuple[float, float] | None:
    """Seconds (a, b) of a step of t tokens, a + b * t, fitted to the medians of `cached`; None without two lengths."""
    if not path.is_file():
        return None
    results = Results(json.loads(path.read_text(encoding="utf-8"))["trials"])
    found = {length: results.median("cached", length, "seconds") for length in results.lengths()}
    points = {length: seconds for length, seconds in found.items() if seconds is not None}
    if len(points) < 2:
        return None
    inverse = [1 / length for length in points]  # seconds / t = b + a / t: every length counts alike
    fixed, per_token = statistics.linear_regression(inverse, [points[length] / length for length in points])
    return max(0.0, fixed), per_token


def epoch_time(lengths: Sequence[int], order: Sequence[int], *, num_ranks: int, fixed_tokens: float) -> float:
    """Time of an epoch, in tokens; what accelerate adds to the last step counts there."""
    steps = rank_times(lengths, order, batch_size=1, num_ranks=num_ranks, fixed_tokens=fixed_tokens)
    return sum(map(max, steps))


def least_time(lengths: Sequence[int], *, num_ranks: int, fixed_tokens: float) -> float:
    """What no order goes below: the k-th slowest step is no shorter than document (k - 1) * num_ranks + 1 by length."""
    return sum(fixed_tokens + length for length in sorted(lengths, reverse=True)[::num_ranks])


def met_again(first: Sequence[int], second: Sequence[int], *, num_ranks: int) -> float:
    """The mean share of a document's partners in a step that are its partners in the other epoch too."""
    step_of = {document: place // num_ranks for place, document in enumerate(second)}
    shares = []
    for start in range(0, len(first), num_ranks):
        steps = [step_of[document] for document in first[start : start + num_ranks]]
        shares += [(steps.count(step) - 1) / (len(steps) - 1) for step in steps if len(steps) > 1]
    return statistics.mean(shares)


def measure(name: str, num_ranks: int, seed: int, *, fixed_tokens: float) -> list[Row]:
    """The rows of two epochs of every sampler on one data set."""
    lengths = DATA[name].draw(seed)
    shape = {"num_ranks": num_ranks, "fixed_tokens": fixed_tokens}
    least = least_time(lengths, **shape)
    rows = []
    for sampler in SAMPLERS:
        orders = two_epochs(sampler_of(sampler, lengths, num_ranks=num_ranks, seed=seed))
        again = met_again(*orders, num_ranks=num_ranks)
        for epoch, order in enumerate(orders):
            idle = idle_share(lengths, order, batch_size=1, **shape)
            time = epoch_time(lengths, order, **shape) / least
            place = {"data": name, "ranks": num_ranks, "sampler": sampler, "seed": seed, "epoch": epoch}
            rows.append({**place, "idle_share": idle, "time_over_least": time, "met_again": again})
    return rows


def median(rows: list[Row], name: str, ranks: int, sampler: str, field: str) -> float | None:
    """The median over seeds and epochs; None without any."""
    found = plots.values(rows, name, ranks, sampler, field)
    return statistics.median(found) if found else None


def table(rows: list[Row]) -> str:
    """A line per data set and number of ranks."""
    shares = [f"{sampler}: idle (min–max)" for sampler in SAMPLERS]
    again = [f"met again, {sampler}" for sampler in ("random", "cached_ds")]
    header = ("lengths like", "ranks", *shares, "cached_ds / random", "epoch / least", *again)
    return markdown(header, (_line(rows, *place) for place in dict.fromkeys((r["data"], r["ranks"]) for r in rows)))


def _line(rows: list[Row], name: str, ranks: int) -> list[str]:
    found = {sampler: plots.values(rows, name, ranks, sampler, "idle_share") for sampler in SAMPLERS}
    shares = [f"{statistics.median(each):.0%} ({min(each):.0%}–{max(each):.0%})" for each in found.values()]
    over = number(median(rows, name, ranks, "cached_ds", "time_over_least"), ".2f")
    again = [number(median(rows, name, ranks, sampler, "met_again"), ".0%") for sampler in ("random", "cached_ds")]
    return [name, str(ranks), *shares, number(ratio(rows, name, ranks), ".2f"), over, *again]


def ratio(rows: list[Row], name: str, ranks: int) -> float | None:
    """The idle share of cached_ds's order over that of a random one."""
    ours, others = (median(rows, name, ranks, sampler, "idle_share") for sampler in ("cached_ds", "random"))
    return ours / others if ours is not None and others else None


def promises(rows: list[Row]) -> list[Promise]:
    """The promises; those that this run did not measure have no value."""
    return [
        Promise(f"{TARGET[0]}, {TARGET[1]} ranks: idle share / random's", ratio(rows, *TARGET), 0.25),
        Promise(
            f"{FEW[0]}, {FEW[1]} ranks: epoch / least possible",
            median(rows, *FEW, "cached_ds", "time_over_least"),
            1.10,
        ),
    ]


def plan(arguments: argparse.Namespace) -> list[tuple[str, int, int]]:
    """Data set, ranks and seed of all that is simulated; more ranks than documents are left out."""
    return [
        (name, ranks, seed)
        for name in arguments.data
        for ranks in arguments.ranks
        for seed in range(arguments.seeds)
        if ranks <= DATA[name].documents
    ]


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = flag_parser(__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 512], help="numbers of ranks")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), help="whose lengths")
    parser.add_argument("--seeds", type=int, default=5, help="data sets drawn of each kind (default: 5)")
    parser.add_argument("--speed", type=Path, default=MEASURED / "speed.json", help="the speed benchmark's results")
    parser.add_argument("--fixed_tokens", type=float, help="a / b (default: of --speed, else 512)")
    return parser.parse_args()


def main() -> int:
    """Simulate, write, print; returns the exit code."""
    arguments = parse()
    model, fixed_tokens = step_model(arguments.speed), arguments.fixed_tokens
    if fixed_tokens is None:
        fixed_tokens = model[0] / model[1] if model else FIXED_TOKENS
    places = tqdm(plan(arguments), unit="data set")
    rows = [row for place in places for row in measure(*place, fixed_tokens=fixed_tokens)]
    about = {"fixed_tokens": fixed_tokens, "lengths": {name: asdict(lengths) for name, lengths in DATA.items()}}
    write_json(arguments.output_dir / "balance.json", {**about, "rows": rows})
    print(f"fixed cost of a step: {fixed_tokens:.0f} tokens\n")
    plot = partial(plots.balance, samplers=SAMPLERS)
    return Benchmark(name="balance", table=table, promises=promises, plot=plot).report(rows, arguments.output_dir)


if __name__ == "__main__":
    sys.exit(main())
