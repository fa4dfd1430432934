"""What a training step asks of its host on a GPU: kernels, milliseconds, and how often it waits for the device.

    make launches       # or: .venv/bin/python benchmarks/launches.py [--lengths 16384 65536] [--models large] ...

No GPU is needed: kernels are counted, and the host's work is timed, on a narrow model of the same depth (see
workers/launches_step.py). A GPU is busy only as long as its host is ahead of it. Compared are the sizes that a CPU
gets, one window per pass and tiles of 1,024 tokens, with those that a GPU gets. Prints the table and PASS or FAIL for
every promise, writes launches.md and launches.json; exits with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import sys

from harness.benchmark import Benchmark, add_trial_flags, flag_parser
from harness.trials import Trial
from reports.results import Promise, Results, Row, markdown, number, tokens

MODELS = {"base": {"encoder_layers": 6, "decoder_layers": 6}, "large": {"encoder_layers": 12, "decoder_layers": 12}}
TITLES = {"cpu": "sizes of a CPU", "gpu": "**sizes of a GPU**"}
LARGEST = {"length": 524288, "model": "large"}
KERNELS, HOST_MS = 60_000, 500.0  # limits for the largest (issue 13)


def plan(arguments: argparse.Namespace) -> list[Trial]:
    """The trials, round by round."""
    return [
        Trial(
            {"variant": variant, "length": length, "model": model, "shape": MODELS[model] | arguments.shape},
            number,
            script="launches_step.py",
        )
        for number in range(arguments.rounds)
        for model in arguments.models
        for length in arguments.lengths
        for variant in TITLES
    ]


def of_model(rows: list[Row], model: str) -> Results:
    """The rows of one model."""
    return Results(row for row in rows if row["settings"]["model"] == model)


def host_ms(results: Results, variant: str, length: int) -> float | None:
    """Milliseconds of the host per step, cutting included; the fastest round, since others only add to it."""
    found = [results.values(variant, length, name) for name in ("step_ms", "cut_ms")]
    return min(step + found[1][number] for number, step in found[0].items()) if found[0] else None


def table(rows: list[Row]) -> str:
    """A line for each model, length and variant."""
    lines = []
    for model in MODELS:
        results = of_model(rows, model)
        for length in results.lengths():
            for variant, title in TITLES.items():
                counts = [number(results.median(variant, length, name), ",.0f") for name in ("kernels", "waits")]
                time = number(host_ms(results, variant, length), ",.0f")
                lines.append([f"BART-{model}", tokens(length), title, counts[0], time, counts[1]])
    return markdown(["model", "tokens", "sizes", "kernels", "host, ms", "waits"], lines)


def promises(rows: list[Row]) -> list[Promise]:
    """The limits for the largest model and the longest document."""
    results, length = of_model(rows, LARGEST["model"]), LARGEST["length"]
    of_largest = f"BART-large, {tokens(length)} tokens: "
    return [
        Promise(of_largest + "kernels", results.median("gpu", length, "kernels"), KERNELS),
        Promise(of_largest + "host, ms", host_ms(results, "gpu", length), HOST_MS),
        *(waits(of_model(rows, model), model, each) for model in MODELS for each in of_model(rows, model).lengths()),
    ]


def waits(results: Results, model: str, length: int) -> Promise:
    """That the host never waits."""
    return Promise(f"BART-{model}, {tokens(length)} tokens: waits", results.median("gpu", length, "waits"), 0)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = flag_parser(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16384, 65536, 524288], help="tokens")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="of which depth")
    parser.add_argument("--rounds", type=int, default=1, help="rounds, each the fastest of several steps (default: 1)")
    add_trial_flags(parser)
    return parser.parse_args()


def main() -> int:
    """Measure, write, print; returns the exit code."""
    arguments = parse()
    return Benchmark(name="launches", plan=plan(arguments), table=table, promises=promises).measure(arguments)


if __name__ == "__main__":
    sys.exit(main())
