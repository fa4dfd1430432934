"""Generation from one long document by beams, against Hugging Face's own: seconds, and memory above the model.

    make generation       # or: .venv/bin/python benchmarks/generation.py [--lengths 16384] [--beams 1 4] [--resume] ...

Every trial encodes the document window by window and then writes a summary of 64 tokens from the same states: with
Hugging Face's cross-attention and its cache for each beam, or with one that the beams share, "kv" or "none". The
longest document is read by "none" alone. Seconds are those of writing; ratios are medians of ratios within a round.
Prints the table and PASS or FAIL for every promise, writes generation.md and generation.json; exits with 1 where a
promise is broken.
"""

from __future__ import annotations

import argparse
import sys

from harness.benchmark import Benchmark, add_trial_flags, flag_parser
from harness.trials import Trial
from reports.results import Promise, Results, Row, markdown, number, tokens

TITLES = {"hf": "Hugging Face", "kv": '**`cross_cache="kv"`**', "none": '**`cross_cache="none"`**'}
MOST_BEAMS, LENGTH = 4, 16384
MEMORY, SECONDS = {"kv": 0.26, "none": 0.10}, {"kv": 0.30, "none": 1.0}  # of Hugging Face's (issue 15)
LONGEST, GIB = 262144, 2.0


def plan(arguments: argparse.Namespace) -> list[Trial]:
    """The trials, round by round, then the longest document."""
    planned = [
        _trial(arguments, variant, length, beams, round_number)
        for round_number in range(arguments.rounds)
        for length in arguments.lengths
        for beams in arguments.beams
        for variant in TITLES
    ]
    return planned + [_trial(arguments, "none", length, MOST_BEAMS, 0) for length in arguments.longest]


def _trial(arguments: argparse.Namespace, variant: str, length: int, beams: int, round_number: int) -> Trial:
    settings = {"variant": variant, "length": length, "beams": beams, "tokens": arguments.tokens}
    return Trial(settings | {"shape": arguments.shape}, round_number, script="generate.py")


def of_beams(rows: list[Row], beams: int) -> Results:
    """The rows of so many beams."""
    return Results(row for row in rows if row["settings"]["beams"] == beams)


def table(rows: list[Row]) -> str:
    """A line for each length, number of beams and variant."""
    lines = []
    for beams in sorted({row["settings"]["beams"] for row in rows}):
        results = of_beams(rows, beams)
        for length in results.lengths():
            lines += [
                [tokens(length), str(beams), title, *_numbers(results, variant, length)]
                for variant, title in TITLES.items()
                if results.of(variant, length)
            ]
    header = ["tokens", "beams", "cross-attention", "MiB above the model", "of Hugging Face's", "seconds"]
    return markdown([*header, "of Hugging Face's", "milliseconds per token"], lines)


def _numbers(results: Results, variant: str, length: int) -> list[str]:
    peak, seconds = (results.median(variant, length, name) for name in ("peak_bytes", "seconds"))
    count = results.of(variant, length)[0]["settings"]["tokens"]
    return [
        number(None if peak is None else peak / 2**20, ",.0f"),
        number(results.ratio(variant, "hf", length, "peak_bytes"), ".2f"),
        number(seconds, ".1f"),
        number(results.ratio(variant, "hf", length), ".2f"),
        number(None if seconds is None else 1000 * seconds / count, ",.0f"),
    ]


def promises(rows: list[Row]) -> list[Promise]:
    """The shares of Hugging Face's memory and time, the same tokens, and the memory of the longest document."""
    results, found = of_beams(rows, MOST_BEAMS), []
    for variant in MEMORY:
        what = f"{tokens(LENGTH)} tokens, {MOST_BEAMS} beams, {variant}: of Hugging Face's "
        memory = results.ratio(variant, "hf", LENGTH, "peak_bytes")
        found += [Promise(what + "memory", memory, MEMORY[variant])]
        found += [Promise(what + "seconds", results.ratio(variant, "hf", LENGTH), SECONDS[variant])]
    peak = results.median("none", LONGEST, "peak_bytes")
    what = f"{tokens(LONGEST)} tokens, {MOST_BEAMS} beams: GiB above the model"
    different = sum(len(each) > 1 for each in _written(rows).values())
    return [
        *found,
        Promise(what, None if peak is None else peak / 2**30, GIB),
        Promise("summaries that differ from Hugging Face's", different, 0),
    ]


def _written(rows: list[Row]) -> dict[tuple[int, int], set[str]]:
    """What was written, by length and beams."""
    found: dict[tuple[int, int], set[str]] = {}
    for row in rows:
        settings = row["settings"]
        if "written" in row["result"]:
            found.setdefault((settings["length"], settings["beams"]), set()).add(row["result"]["written"])
    return found


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = flag_parser(__doc__)
    add = parser.add_argument
    add("--lengths", type=int, nargs="+", default=[LENGTH], help="tokens of the document that all variants read")
    add("--longest", type=int, nargs="*", default=[LONGEST], help="tokens of the document that one variant reads")
    add("--beams", type=int, nargs="+", default=[1, MOST_BEAMS], help=f"beams (default: 1 {MOST_BEAMS})")
    add("--tokens", type=int, default=64, help="tokens of the summary (default: 64)")
    add("--rounds", type=int, default=2, help="rounds (default: 2)")
    add_trial_flags(parser)
    return parser.parse_args()


def main() -> int:
    """Measure, write, print; returns the exit code."""
    arguments = parse()
    return Benchmark(name="generation", plan=plan(arguments), table=table, promises=promises).measure(arguments)


if __name__ == "__main__":
    sys.exit(main())
