"""Memory against document length: peak resident memory, and what the decoder saves for backward.

    make memory       # or: .venv/bin/python benchmarks/memory.py [--lengths 16384 65536] [--resume] ...

Peaks are resident bytes at their highest during one step, minus those right after the model was built: gradients are
included (their size is in the JSON). Every variant encodes one window at a time. Growth is the slope between the two
longest documents. Processor time per token is that of the shortest and of the longest document, of all threads; unlike
the clock's it does not mind what else the machine does. Bytes saved by the decoder are counted for one encoder layer,
on which they do not depend. Prints the tables and PASS or FAIL for every promise, writes memory.md, memory.json,
memory.png; exits with 1 where a promise is broken.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from harness.benchmark import Benchmark, add_trial_flags, flag_parser
from harness.trials import Trial
from reports import plots
from reports.results import Promise, Results, Row, markdown, number, tokens
from subjects.shape import Shape
from subjects.variants import NAMES, TITLES, fields_of

LONGEST = {"full": 16384, "checkpointing": 65536, "published": 65536, "two_phase": 65536}
DEFAULT = ("truncation", "full", "checkpointing", "published", "two_phase", "cached", "cached_disk")
SAVING = ("full", "checkpointing", "cached")  # published and two_phase run the decoder of `full`
SETUPS = {
    "6 decoder layers": {"decoder_layers": 6, "attention_dropout": 0.0},
    "12 decoder layers": {"decoder_layers": 12, "attention_dropout": 0.0},
    "6, attention dropout": {"decoder_layers": 6, "attention_dropout": 0.1},
}
ITEM = 4  # bytes of a float32


def plan(arguments: argparse.Namespace) -> list[Trial]:
    """The trials of saved bytes, then those of peaks, the shortest documents first."""
    saving = [
        make_trial(arguments, variant, arguments.saved_length, 0, probe="saved", setup=setup)
        for setup in SETUPS.values()
        for variant in SAVING
        if variant in arguments.variants
    ]
    longest = LONGEST | ({} if arguments.peer_limit is None else dict.fromkeys(LONGEST, arguments.peer_limit))
    peaks = [
        make_trial(arguments, variant, length, number, probe="step")
        for length in arguments.lengths
        for number in range(arguments.rounds)
        for variant in arguments.variants
        if length <= longest.get(variant, length)
    ]
    return saving + peaks


def make_trial(
    arguments: argparse.Namespace,
    variant: str,
    length: int,
    number: int,
    *,
    probe: str,
    setup: dict[str, float] | None = None,
) -> Trial:
    """A trial of one step of one variant."""
    fields = fields_of(variant, arguments.cached_fields, frugal=True)
    shape = arguments.shape | ({} if setup is None else {"encoder_layers": 1} | setup)
    return Trial({"variant": variant, "length": length, "fields": fields, "shape": shape, "probe": probe}, number)


def split(rows: list[Row]) -> tuple[Results, Results]:
    """The rows of peaks, and those of saved bytes."""
    peaks = [row for row in rows if row["settings"]["probe"] == "step"]
    return Results(peaks), Results(row for row in rows if row["settings"]["probe"] == "saved")


def saved_bytes(saved: Results) -> dict[str, dict[str, float]]:
    """Variant -> set-up -> bytes that the decoder saves per source token."""
    found: dict[str, dict[str, float]] = {}
    for length in saved.lengths():
        for variant in SAVING:
            for setup, shape in SETUPS.items():
                value = saved.median(variant, length, "saved_per_token", **shape)
                if value is not None:
                    found.setdefault(variant, {})[setup] = value
    return found


def by_length(peaks: Results, variant: str, name: str) -> list[tuple[int, float]]:
    """Length and median of a field, where it was measured, the shortest first."""
    found = [(length, peaks.median(variant, length, name)) for length in peaks.lengths()]
    return [(length, value) for length, value in found if value is not None]


def growth(peaks: Results, variant: str) -> float | None:
    """Bytes per token between the two longest documents of a variant."""
    known = by_length(peaks, variant, "peak_bytes")
    if len(known) < 2:
        return None
    (first, low), (last, high) = known[-2:]
    return (high - low) / (last - first)


def token_seconds(peaks: Results, variant: str) -> list[float]:
    """Processor time per token of the shortest and of the longest document; fewer where there are fewer."""
    found = [seconds / length for length, seconds in by_length(peaks, variant, "cpu_seconds")]
    return [found[0], found[-1]] if len(found) > 1 else found


def table(rows: list[Row]) -> str:
    """Peaks, growth and processor time of every variant; then the saved bytes of the decoders."""
    peaks, saved = split(rows)
    lengths, lines = peaks.lengths(), []
    for variant in NAMES:
        if any(peaks.of(variant, length) for length in lengths):
            shown = [_peak(peaks, variant, length) for length in lengths]
            rates = "–" if variant == "truncation" else _milliseconds(token_seconds(peaks, variant))
            lines.append([TITLES[variant], *shown, number(growth(peaks, variant), ",.0f"), rates])
    columns = [f"{tokens(length)} tokens" for length in lengths]
    header = ["peak MiB above the model", *columns, "growth, bytes/token", "processor ms/token, shortest → longest"]
    bars = saved_bytes(saved)
    second = [[TITLES[each], *(number(bars[each].get(name), ",.0f") for name in SETUPS)] for each in bars]
    return markdown(header, lines) + "\n" + markdown(["decoder, bytes saved per source token", *SETUPS], second)


def _peak(peaks: Results, variant: str, length: int) -> str:
    value = peaks.median(variant, length, "peak_bytes")
    return (peaks.failure(variant, length) or "–") if value is None else f"{value / 2**20:,.0f}"


def _milliseconds(seconds: list[float]) -> str:
    return " → ".join(f"{1000 * each:.2f}" for each in seconds)


def promises(rows: list[Row], *, shape: Shape) -> list[Promise]:
    """Bounds of saved bytes, of growth, and of processor time per token."""
    peaks, saved = split(rows)
    bars, states = saved_bytes(saved).get("cached", {}), shape.width * ITEM
    found = [Promise(f"decoder saves per token, {setup}", bars.get(setup), 1.05 * states) for setup in SETUPS]
    found.append(Promise("cached grows by, bytes per token", growth(peaks, "cached"), 2.1 * states))
    # On disk only the ids, the mask and where the states go stay in memory: int64 each, one copy of the caller's.
    found.append(Promise("cached_disk grows by, bytes per token", growth(peaks, "cached_disk"), 0.05 * states))
    rates = token_seconds(peaks, "cached")
    slower = rates[1] / rates[0] if len(rates) > 1 else None
    return [*found, Promise("cached: processor time per token, longest / shortest document", slower, 1.10)]


def plot(rows: list[Row], path: Path) -> None:
    """Peaks against length, and bars of saved bytes."""
    peaks, saved = split(rows)
    plots.memory(peaks, saved_bytes(saved), path)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = flag_parser(__doc__)
    parser.add_argument("--lengths", type=int, nargs="*", default=[16384, 65536, 262144], help="tokens")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of each length (default: 1)")
    parser.add_argument("--variants", nargs="+", choices=NAMES, default=DEFAULT, help="what to compare")
    parser.add_argument("--peer_limit", type=int, help="tokens up to which peers run (default: full 16K, others 64K)")
    parser.add_argument("--saved_length", type=int, default=8192, help="tokens where saved bytes are counted")
    add_trial_flags(parser)
    return parser.parse_args()


def main() -> int:
    """Measure, write, print; returns the exit code."""
    arguments = parse()
    return Benchmark(
        name="memory",
        plan=plan(arguments),
        table=table,
        promises=partial(promises, shape=Shape(**arguments.shape)),
        plot=plot,
    ).measure(arguments)


if __name__ == "__main__":
    sys.exit(main())
