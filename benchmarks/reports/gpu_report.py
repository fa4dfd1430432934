"""The tables of gpu.py, and what its promises (gpu_promises.py) read from its rows.

The share of a peak counts what full backpropagation needs, whatever is computed twice: tokens per second in other
words, and comparable between variants. Ratios are medians of ratios within one round.
"""

from __future__ import annotations

from probes import flops
from probes.device import published_rate
from reports.results import Results, Row, markdown, number, tokens
from subjects import variants
from subjects.shape import Shape

Rows = list[Row]
GIB, MIB = 2**30, 2**20
LONG = 65536  # tokens
PEERS = ("full", "checkpointing", "two_phase", "published")
NAMES = (*PEERS, "cached", "cached_auto", "cached_cpu")
TITLES = variants.TITLES | {"cached_cpu": '**cached_ds**, `offload="cpu"`'}
NO_MEMORY, NO_TIME = "out of memory", "no time left"


def of(rows: Rows, stage: str, *, with_: str = "") -> Rows:
    """The rows of a stage, or of all whose names begin so; those that have this setting."""
    found = [row for row in rows if row["settings"]["stage"].startswith(stage)]
    return [row for row in found if not with_ or with_ in row["settings"]]


def models(rows: Rows, stage: str) -> dict[str, Results]:
    """Model -> the blocks of its steps."""
    found: dict[str, Rows] = {}
    for row in of(rows, stage, with_="variant"):
        found.setdefault(row["settings"]["model"], []).append(row)
    return {model: Results(some) for model, some in found.items()}


def table(rows: Rows) -> str:
    """What was measured, and a table for each kind of rows that there are."""
    parts = (heading, stages, checks, memory, speed, generation)
    return "\n".join(text for part in parts if (text := part(rows)))


def heading(rows: Rows) -> str:
    """The device, and the rates of its matmuls."""
    about = next((row["result"] for row in of(rows, "speed", with_="variant")), None)
    if about is None:
        return ""
    if about["device"] == "cpu":
        return "A rehearsal on the CPU: no figure of it means anything.\n"
    rates = [number(rate and rate / 1e12, ".0f") for rate in (about["matmul_rate"], published_rate(about["device"]))]
    return f"{about['device']}: bfloat16 matmuls at {rates[0]} TFLOP/s, measured; {rates[1]} published.\n"


def stages(rows: Rows) -> str:
    """Seconds and end of every stage."""
    lines = [
        [row["settings"]["stage"], f"{row['result']['seconds']:.0f}", row["result"].get("failed", "done")]
        for row in rows
        if set(row["settings"]) == {"stage"} and "seconds" in row["result"]
    ]
    return markdown(("stage", "seconds", "end"), lines)


def checks(rows: Rows) -> str:
    """Errors of gradients; the first column is where, the last what full backpropagation itself has."""
    lines = []
    for stage in ("parity", "dropout", "offload"):
        for row in of(rows, stage, with_="dtype"):
            what = [str(value) for name, value in row["settings"].items() if name not in ("stage", "dtype")]
            errors = [row["result"].get(name) for name in ("error", "of_full_backpropagation")]
            lines.append([stage, ", ".join(what), row["settings"]["dtype"], *(number(each, ".1e") for each in errors)])
    header = ("check", "of", "in", "error", "error of full backpropagation")
    return markdown(header, lines) if lines else ""


def memory(rows: Rows) -> str:
    """Peaks by length, and what a token adds."""
    text = ""
    for model, results in models(rows, "memory").items():
        lengths = results.lengths()
        header = [f"{model}: peak MiB above the model", *(f"{tokens(each)} tokens" for each in lengths)]
        lines = []
        for variant in [name for name in NAMES if any(results.of(name, each) for each in lengths)]:
            peaks = [peak(results, variant, length, MIB, ",.0f") for length in lengths]
            lines.append([TITLES[variant], *peaks, number(growth(results, variant), ",.0f")])
        text += markdown([*header, "growth, bytes/token"], lines)
    return text


def peak(results: Results, variant: str, length: int, unit: int, form: str) -> str:
    """The peak of a step, or why there is none."""
    value = results.median(variant, length, "peak_bytes")
    return (results.failure(variant, length) or "–") if value is None else format(value / unit, form)


def growth(results: Results, variant: str) -> float | None:
    """Bytes per token from the shortest to the longest of the documents that are long: passes and tiles are full."""
    lengths = [length for length in results.lengths() if length >= LONG]
    found = {length: results.median(variant, length, "peak_bytes") for length in lengths}
    known = [(length, value) for length, value in found.items() if value is not None]
    if len(known) < 2:
        return None
    (first, low), (last, high) = known[0], known[-1]
    return (high - low) / (last - first)


def speed(rows: Rows) -> str:
    """Seconds, tokens per second, ratios, shares of the peak and memory of every variant."""
    header = ("model", "tokens", "step", "seconds", "tokens/s", "cached_ds / this")
    header += ("of the measured peak", "of the published peak", "peak GiB")
    lines = []
    for model, results in models(rows, "speed").items():
        for length in results.lengths():
            for variant in [name for name in NAMES if results.of(name, length)]:
                columns = _columns(results, variant, length)
                lines.append([model, tokens(length), TITLES[variant], *columns])
    return markdown(header, lines) if lines else ""


def _columns(results: Results, variant: str, length: int) -> list[str]:
    seconds = results.median(variant, length, "seconds")
    if seconds is None:
        return [results.failure(variant, length) or "–", *["–"] * 5]
    ratio = number(results.ratio("cached", variant, length), ".3f")
    shares = [number(share(results, variant, length, published=each), ".1%") for each in (False, True)]
    return [f"{seconds:.3f}", f"{length / seconds:,.0f}", ratio, *shares, peak(results, variant, length, GIB, ".2f")]


def share(results: Results, variant: str, length: int, *, published: bool = False) -> float | None:
    """FLOPs that full backpropagation needs, over what the device could do in the time of this step."""
    seconds, rows = results.median(variant, length, "seconds"), results.of(variant, length)
    if seconds is None:
        return None
    about = rows[0]["result"]
    rate = published_rate(about["device"]) if published else about["matmul_rate"]
    needed = flops.step(Shape(**rows[0]["settings"]["shape"]), length, "full")
    return needed / seconds / rate if rate else None


def generation(rows: Rows) -> str:
    """Time and memory of generation."""
    lines = [
        [
            *(str(row["settings"][name]) for name in ("model", "length", "beams", "tokens")),
            f"{row['result']['seconds']:.2f}",
            f"{row['result']['peak_bytes'] / GIB:.2f}",
            "yes" if row["result"]["same_tokens"] else "NO",
        ]
        for row in of(rows, "generation", with_="beams")
    ]
    header = ("generation", "tokens read", "beams", "tokens written", "seconds", "peak GiB", "Hugging Face's tokens")
    return markdown(header, lines) if lines else ""


def notes(rows: Rows) -> list[str]:
    """The tests that failed, and the stages and steps that failed without an excuse, with the reason."""
    names = [name for row in of(rows, "tests", with_="tests") for name in row["result"]["names"]]
    reasons = [f"{' '.join(_words(row))}: {row['result']['failed']}" for row in failed(rows)]
    return [f"failed: {words}" for words in (*names, *reasons)]


def failed(rows: Rows) -> Rows:
    """The rows of what failed, without those of `_is_excused`."""
    return [row for row in rows if "failed" in row["result"] and not _is_excused(row)]


def _is_excused(row: Row) -> bool:
    """What need not have been measured: peers without room; without time, all but the first steps of cached_ds."""
    reason, settings = row["result"]["failed"], row["settings"]
    if "grown" in settings:
        return reason in (NO_MEMORY, NO_TIME)
    if reason == NO_TIME:
        return settings["variant"] != "cached" or row["round"] > 0
    return reason == NO_MEMORY and settings["variant"] in PEERS


def _words(row: Row) -> list[str]:
    return [str(row["settings"][name]) for name in ("stage", "variant", "length") if name in row["settings"]]
