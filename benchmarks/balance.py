"""Idle share of ranks by order of documents, and where ranks share them, by simulation.

    make balance      # or: .venv/bin/python benchmarks/balance.py [--ranks 8 64 512] [--seeds 5] [--fixed_tokens 512]

One document per rank and step; a step of `t` tokens takes a rank a + b * t seconds, and all wait for the slowest. a and
b are fitted to the `cached` trials of speed.json, a at least what the FLOP model says of the decoder; where there are
none, a / b is 512 tokens. Lengths are drawn as subjects/lengths.py says, anew for every seed, and there are two epochs
per seed. Orders: random, Hugging Face's length grouping, and cached_ds. Where there are more ranks than documents, some
are read twice, as accelerate does it.

Beside idle shares stand the time of an epoch against the least that any order of one document per rank and step can
have, and how many of the documents that share a step do so in the next epoch again. The second table is cached_ds's
order with document_parallel=P, one document per P ranks and step; P is what `choose_document_parallel` says for these
lengths, with what the group sends on a link of 10 Gbit/s and 0.1 ms. Prints tables and PASS or FAIL for every promise,
writes balance.md, balance.json, balance.png; exits with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import RandomSampler, Sampler
from tqdm import tqdm
from transformers.trainer_pt_utils import LengthGroupedSampler

from cached_ds.document_parallel.choice import StepModel, choose_document_parallel, epoch_seconds
from cached_ds.document_parallel.traffic import Traffic
from cached_ds.training.sampler import LengthBalancedSampler
from harness.benchmark import MEASURED, Benchmark, flag_parser
from harness.trials import write_json
from probes import flops
from probes.idle import idle_share, rank_times
from reports import plots
from reports.results import Promise, Results, Row, markdown, number
from subjects.lengths import DATA
from subjects.shape import Shape

FIXED_TOKENS, PER_TOKEN = 512, 5e-3  # where nothing was measured: tokens, and seconds
SAMPLERS = ("random", "length grouping", "cached_ds")
SHARED = "cached_ds, shared documents"
MODEL, LONG = Shape(), 65536  # tokens
TRAFFIC = Traffic(layers=MODEL.decoder_layers, target=MODEL.target, width=MODEL.width, heads=MODEL.heads)
step_on_link = partial(StepModel, window=MODEL.window, traffic=TRAFFIC, bandwidth=1.25e9, latency=1e-4)
TARGET = ("BookSum, chapters", 64)
FEW = ("BookSum, books", 64)  # a step is a fifth of the epoch
SHARED_GAIN = {64: 0.80, 512: 0.30}  # ranks -> at most so much of an epoch's time


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


def step_model(path: Path) -> StepModel | None:
    """A step's seconds, fitted to the medians of `cached`; None without two lengths."""
    if not path.is_file():
        return None
    results = Results(json.loads(path.read_text(encoding="utf-8"))["trials"])
    found = {length: results.median("cached", length, "seconds") for length in results.lengths()}
    points = {length: seconds for length, seconds in found.items() if seconds is not None}
    if len(points) < 2:
        return None
    inverse = [1 / length for length in points]  # seconds / t = b + a / t: every length counts alike
    fixed, per_token = statistics.linear_regression(inverse, [points[length] / length for length in points])
    decoder = flops.tokens_of_decoder(MODEL, LONG, "cached") * per_token
    return step_on_link(fixed=max(decoder, fixed), per_token=per_token)


def epoch_time(lengths: Sequence[int], order: Sequence[int], *, num_ranks: int, fixed_tokens: float) -> float:
    """Time of an epoch, in tokens; what accelerate adds to the last step counts there."""
    steps = rank_times(lengths, order, batch_size=1, num_ranks=num_ranks, fixed_tokens=fixed_tokens)
    return sum(map(max, steps))


def met_again(first: Sequence[int], second: Sequence[int], *, num_ranks: int) -> float:
    """The mean share of a document's partners in a step that are its partners in the other epoch too."""
    step_of = {document: place // num_ranks for place, document in enumerate(second)}
    shares = []
    for start in range(0, len(first), num_ranks):
        steps = [step_of[document] for document in first[start : start + num_ranks]]
        shares += [(steps.count(step) - 1) / (len(steps) - 1) for step in steps if len(steps) > 1]
    return statistics.mean(shares)


def measure(name: str, num_ranks: int, seed: int, *, step: StepModel) -> list[Row]:
    """The rows of two epochs of every sampler on one data set, and of one with shared documents."""
    lengths, fixed = DATA[name].draw(seed), step.fixed / step.per_token
    rows = []
    for sampler in SAMPLERS:
        orders = two_epochs(sampler_of(sampler, lengths, num_ranks=num_ranks, seed=seed))
        again = met_again(*orders, num_ranks=num_ranks)
        for order in orders:
            idle = idle_share(lengths, order, batch_size=1, num_ranks=num_ranks, fixed_tokens=fixed)
            time = epoch_time(lengths, order, num_ranks=num_ranks, fixed_tokens=fixed) * step.per_token
            rows.append({"sampler": sampler, "idle_share": idle, "time": time, "met_again": again})
    rows += shared_rows(lengths, num_ranks, seed, step=step)
    least = epoch_seconds(lengths, num_ranks=num_ranks, ranks_per_document=1, step=step)
    place = {"data": name, "ranks": num_ranks, "seed": seed}
    return [place | row | {"epoch": at % 2, "time_over_least": row.pop("time") / least} for at, row in enumerate(rows)]


def shared_rows(lengths: Sequence[int], num_ranks: int, seed: int, *, step: StepModel) -> list[Row]:
    """Those of two epochs in which ranks share documents; a rank waits for others of its group too."""
    size = choose_document_parallel(lengths, num_ranks=num_ranks, step=step)
    groups = {"batch_size": 1, "num_ranks": num_ranks // size}
    slowest = [step.seconds(length, ranks=size) for length in lengths]
    beside = step.fixed + step.sending(size)
    mean = [beside + step.per_token * length / size for length in lengths]
    rows = []
    for order in two_epochs(sampler_of("cached_ds", lengths, num_ranks=num_ranks // size, seed=seed)):
        time = sum(map(max, rank_times(slowest, order, **groups)))
        idle = 1 - sum(map(sum, rank_times(mean, order, **groups))) / (num_ranks // size * time)
        rows.append({"sampler": SHARED, "idle_share": idle, "time": time, "document_parallel": size})
    return rows


def median(rows: list[Row], name: str, ranks: int, sampler: str, field: str) -> float | None:
    """The median over seeds and epochs; None without any."""
    found = plots.values(rows, name, ranks, sampler, field)
    return statistics.median(found) if found else None


def table(rows: list[Row]) -> str:
    """A line per data set and number of ranks: orders of documents, and what sharing them gains."""
    places = list(dict.fromkeys((row["data"], row["ranks"]) for row in rows))
    shares = [f"{sampler}: idle (min–max)" for sampler in SAMPLERS]
    again = [f"met again, {sampler}" for sampler in ("random", "cached_ds")]
    header = ("lengths like", "ranks", *shares, "cached_ds / random", "epoch / least", *again)
    orders = markdown(header, (_line(rows, *place) for place in places))
    header = (*header[:2], "cached_ds: idle", "document_parallel", "then idle (min–max)", "epoch / not shared")
    return f"{orders}\n{markdown(header, (_shared_line(rows, *place) for place in places))}"


def _line(rows: list[Row], name: str, ranks: int) -> list[str]:
    found = {sampler: plots.values(rows, name, ranks, sampler, "idle_share") for sampler in SAMPLERS}
    shares = [_spread(each) for each in found.values()]
    over = number(median(rows, name, ranks, "cached_ds", "time_over_least"), ".2f")
    again = [number(median(rows, name, ranks, sampler, "met_again"), ".0%") for sampler in ("random", "cached_ds")]
    return [name, str(ranks), *shares, number(ratio(rows, name, ranks), ".2f"), over, *again]


def _shared_line(rows: list[Row], name: str, ranks: int) -> list[str]:
    idle = number(median(rows, name, ranks, "cached_ds", "idle_share"), ".0%")
    sizes = sorted({int(size) for size in plots.values(rows, name, ranks, SHARED, "document_parallel")})
    shared = _spread(plots.values(rows, name, ranks, SHARED, "idle_share"))
    return [name, str(ranks), idle, " or ".join(map(str, sizes)), shared, number(gain(rows, name, ranks), ".2f")]


def _spread(shares: list[float]) -> str:
    return f"{statistics.median(shares):.0%} ({min(shares):.0%}–{max(shares):.0%})"


def gain(rows: list[Row], name: str, ranks: int) -> float | None:
    """The time of an epoch of shared documents over that of cached_ds's order without; the median of both."""
    ours, others = (median(rows, name, ranks, sampler, "time_over_least") for sampler in (SHARED, "cached_ds"))
    return ours / others if ours is not None and others else None


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
        *(
            Promise(f"{FEW[0]}, {ranks} ranks: epoch, shared / not shared", gain(rows, FEW[0], ranks), bound)
            for ranks, bound in SHARED_GAIN.items()
        ),
    ]


def plan(arguments: argparse.Namespace) -> list[tuple[str, int, int]]:
    """Data set, ranks and seed of all that is simulated."""
    return [
        (name, ranks, seed) for name in arguments.data for ranks in arguments.ranks for seed in range(arguments.seeds)
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
    default = step_on_link(fixed=FIXED_TOKENS * PER_TOKEN, per_token=PER_TOKEN)
    step = step_model(arguments.speed) or default
    if arguments.fixed_tokens is not None:
        step = replace(step, fixed=arguments.fixed_tokens * step.per_token)
    fixed_tokens = step.fixed / step.per_token
    places = tqdm(plan(arguments), unit="data set")
    rows = [row for place in places for row in measure(*place, step=step)]
    about = {"fixed_tokens": fixed_tokens, "lengths": {name: asdict(lengths) for name, lengths in DATA.items()}}
    write_json(arguments.output_dir / "balance.json", {**about, "rows": rows})
    print(f"fixed cost of a step: {fixed_tokens:.0f} tokens\n")
    plot = partial(plots.balance, samplers=(*SAMPLERS, SHARED))
    return Benchmark(name="balance", table=table, promises=promises, plot=plot).report(rows, arguments.output_dir)


if __name__ == "__main__":
    sys.exit(main())
