"""Step time against document length: cached_ds and every peer, in fresh processes, interleaved, repeated.

    make speed        # or: .venv/bin/python benchmarks/speed.py [--lengths 4096 16384] [--rounds 5 3] [--resume] ...

Each trial is one step (forward and backward) of a document after a warm-up; four windows at once for cached_ds and for
the peers that can. Ratios are medians of ratios within one round. `cached` trials also time the encoder, and its
matmuls alone right before and after the step: the machine's own rate. The FLOP model divided by that rate is the time
that arithmetic alone would take. Prints tables and PASS or FAIL for every promise, writes speed.md, speed.json,
speed.png; exits with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from functools import partial
from typing import Any

from harness.benchmark import Benchmark, add_trial_flags, flag_parser
from harness.trials import Trial
from probes import flops
from reports import plots
from reports.results import Promise, Results, Row, markdown, number, tokens
from subjects.shape import Shape
from subjects.variants import FLOP_KINDS, NAMES, TITLES, fields_of

LONGEST = {"full": 16384, "cached_auto": 16384, "led": 4096}  # what fits, and what takes minutes per step
UNDISTURBED = 0.97
DEFAULT = [name for name in NAMES if name != "cached_disk"]


def plan(arguments: argparse.Namespace) -> list[Trial]:
    """All trials: length by length, round by round, every variant in every round."""
    return [
        make_trial(arguments, variant, length, number)
        for length, rounds in zip(arguments.lengths, arguments.rounds, strict=True)
        for number in range(rounds)
        for variant in arguments.variants
        if length <= LONGEST.get(variant, length)
    ]


def make_trial(arguments: argparse.Namespace, variant: str, length: int, number: int) -> Trial:
    """One step of one variant; `cached` is also compared with the matmuls alone."""
    fields = fields_of(variant, arguments.cached_fields, frugal=False)
    probe = "matmuls" if variant == "cached" else "step"
    settings = {"variant": variant, "length": length, "fields": fields, "shape": arguments.shape, "probe": probe}
    return Trial(settings, number)


def table(rows: list[Row], *, shape: Shape) -> str:
    """Time of every variant at every length; then the encoder against the matmuls alone."""
    results, lines = Results(rows), []
    for length in results.lengths():
        for variant in NAMES:
            if results.of(variant, length):
                lines.append([tokens(length), TITLES[variant], *_columns(results, variant, length, shape)])
    header = ("tokens", "step", "seconds, median (min–max)", "cached_ds / this", "tokens/s", "FLOP model, s")
    share = [_share_line(results, length) for length in results.lengths() if encoder_share(results, length)]
    names = ("tokens", "encoder, s", "its matmuls alone, s", "share", "matmul rate, GFLOP/s")
    return markdown(header, lines) + "\n" + markdown(names, share)


def _columns(results: Results, variant: str, length: int, shape: Shape) -> list[str]:
    seconds = list(results.values(variant, length, "seconds").values())
    if not seconds:
        return [results.failure(variant, length) or "–", "–", "–", "–"]
    median = statistics.median(seconds)
    spread = f"{median:.1f} ({min(seconds):.1f}–{max(seconds):.1f})" if len(seconds) > 1 else f"{median:.1f}"
    ratio = number(results.ratio("cached", variant, length), ".3f")
    read = min(length, shape.window) if variant == "truncation" else length
    return [spread, ratio, f"{read / median:.0f}", number(model_seconds(results, variant, length, shape), ".1f")]


def model_seconds(results: Results, variant: str, length: int, shape: Shape) -> float | None:
    """The FLOP model's time at the rate that the encoder's matmuls alone reached in the same run."""
    rate = matmul_rate(results, length)
    kind = FLOP_KINDS.get(variant)
    if rate is None or kind is None:
        return None
    kept = kept_windows(results.of(variant, length)[0]) if kind == "cached" else 0
    return flops.step(shape, length, kind, kept=kept) / rate


def kept_windows(row: Row) -> int:
    """Windows of the one pass whose graph cached_ds keeps: those that "auto" chose, else those of the settings."""
    chosen, asked = row["result"].get("windows_per_pass"), row["settings"]["fields"].get("windows_per_pass", 1)
    return int(chosen or (1 if asked == "auto" else asked))


def matmul_rate(results: Results, length: int) -> float | None:
    """FLOP/s of the matmuls alone around the `cached` steps of this length, or of any."""
    lengths = [length, *results.lengths()]
    found = [list(results.values("cached", each, "matmuls").values()) for each in lengths]
    rates = [rate["rate"] for pair in next(filter(None, found), []) for rate in pair]
    return statistics.median(rates) if rates else None


def encoder_share(results: Results, length: int) -> tuple[float, float] | None:
    """Seconds of the encoder and of its matmuls alone (all it ran), medians over the rounds."""
    found = []
    for row in results.of("cached", length):
        if "matmuls" in row["result"]:
            result: dict[str, Any] = row["result"]
            forwards = 2 - flops.kept_share(Shape(**row["settings"]["shape"]), length, kept_windows(row))
            alone = [forwards * each["forward"] + each["backward"] for each in result["matmuls"]]
            found.append((result["encoder_forward"] + result["encoder_backward"], statistics.mean(alone)))
    if not found:
        return None
    return statistics.median(seconds for seconds, _ in found), statistics.median(alone for _, alone in found)


def _share_line(results: Results, length: int) -> list[str]:
    found, rate = encoder_share(results, length), matmul_rate(results, length)
    assert found is not None and rate is not None, "only lengths that have it"
    seconds, alone = found
    return [tokens(length), f"{seconds:.1f}", f"{alone:.1f}", f"{100 * alone / seconds:.0f} %", f"{rate / 1e9:.0f}"]


def disturbed(rows: list[Row], *, threads: int) -> list[str]:
    """Trials of one thread that had to wait for their core, with the share of the time that they had it."""
    found = [(row["settings"], row["round"], row["result"]) for row in rows if "cpu_seconds" in row["result"]]
    return [
        f"disturbed: {settings['variant']} {settings['length']} round {number + 1} had its core {share:.0%} of the time"
        for settings, number, result in found
        if threads == 1 and (share := result["cpu_seconds"] / result["seconds"]) < UNDISTURBED
    ]


def promises(rows: list[Row]) -> list[Promise]:
    """Bounds of cached_ds against its peers, and of the encoder against its matmuls alone, at every length."""
    results, found = Results(rows), []
    for length in (4096, 16384, 65536):
        for peer, bound in (("checkpointing", 0.98), ("published", 1.03), ("full", 1.20)):
            if length <= LONGEST.get(peer, length):
                what = f"{tokens(length)}: cached / {peer}"
                found.append(Promise(what, results.ratio("cached", peer, length), bound))
        if length <= LONGEST["cached_auto"]:
            what = f"{tokens(length)}: cached_auto / full"
            found.append(Promise(what, results.ratio("cached_auto", "full", length), 1.02))
        share = encoder_share(results, length)
        what = f"{tokens(length)}: the encoder's share of the matmul rate"
        found.append(Promise(what, share[1] / share[0] if share else None, 0.85, at_least=True))
    return found


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = flag_parser(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 16384, 65536], help="tokens")
    parser.add_argument("--rounds", type=int, nargs="+", default=[3, 2, 1], help="rounds of each length")
    parser.add_argument("--variants", nargs="+", choices=NAMES, default=DEFAULT, help="what to compare")
    add_trial_flags(parser)
    arguments = parser.parse_args()
    if len(arguments.lengths) != len(arguments.rounds):
        parser.error("--lengths and --rounds must name the same number of values")
    return arguments


def main() -> int:
    """Measure, write, print; returns the exit code."""
    arguments = parse()
    shape = Shape(**arguments.shape)
    return Benchmark(
        name="speed",
        plan=plan(arguments),
        table=partial(table, shape=shape),
        notes=partial(disturbed, threads=arguments.threads),
        promises=promises,
        plot=partial(plots.speed, shape=shape, model_seconds=model_seconds),
    ).measure(arguments)


if __name__ == "__main__":
    sys.exit(main())
