"""The promises of gpu.py: what its rows are held to. Lengths that a run did not measure promise nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable

from reports.gpu_report import PEERS, Rows, failed, growth, models, of, share
from reports.results import Promise, Results, tokens
from subjects.shape import Shape

LENGTHS = (16384, 65536, 524288)
EXACT = 1e-10  # float64: 1e-12 of sums in another order, and room; one float32 operation gives 1e-7
NARROW = 2.0  # error / that of full backpropagation in the same precision
AUTOCAST, KERNEL = 5e-2, 2**-6  # as tests/helpers/on_device.py says
FLOAT32 = 1e-5
RATIOS = {"full": 1.4, "checkpointing": 1.0, "two_phase": 1.05, "published": 1.0}  # cached_ds's time / theirs
SHARE = 0.25  # of the measured matmul peak, BART-large on long documents
AGREE = 0.02  # of losses and norms in bfloat16
BYTES = 2  # of a number in bfloat16


def promises(rows: Rows) -> list[Promise]:
    """All of them; those that this run did not measure have no value."""
    found = [Promise("stages and steps that failed", len(failed(rows)), 0)]
    found += _tests(rows)
    found += _errors(rows)
    found += _memory(rows)
    found += _speed(rows)
    same = [row["result"]["same_tokens"] for row in of(rows, "generation", with_="beams")]
    return [*found, Promise("generated texts that are not Hugging Face's", same.count(False) if same else None, 0)]


def _tests(rows: Rows) -> list[Promise]:
    """On the CPU they are skipped, which promises nothing."""
    ended = [row["result"] for row in of(rows, "tests", with_="tests") if row["result"]["has_device"]]
    return [
        Promise(f"tests of a GPU that {words}", ended[0]["outcomes"][name] if ended else None, 0)
        for words, name in (("failed", "failed"), ("were skipped", "skipped"))
    ]


def _errors(rows: Rows) -> list[Promise]:
    """The worst error of each check in each precision."""
    found = []
    for dtype in ("float32", "bfloat16"):
        narrow = [row["result"] for row in of(rows, "parity") if row["settings"].get("dtype") == dtype]
        ratio = worst(each["error"] / each["of_full_backpropagation"] for each in narrow)
        found.append(Promise(f"parity, {dtype}: error / that of full backpropagation", ratio, NARROW))
    for stage, dtype, bound in (
        ("parity", "float64", EXACT),
        ("dropout", "float64", EXACT),
        ("dropout", "autocast", AUTOCAST),
        ("offload", "float64", EXACT),
        ("offload", "float32", FLOAT32),
    ):
        some = [row for row in of(rows, stage, with_="dtype") if "kernel" not in row["settings"]]
        errors = (row["result"]["error"] for row in some if row["settings"]["dtype"] == dtype)
        found.append(Promise(f"{stage}, {dtype}: worst error of a gradient", worst(errors), bound))
    kernels = worst(row["result"]["error"] for row in of(rows, "dropout", with_="kernel"))
    return [*found, Promise("dropout: weights that a kernel's backward drops otherwise", kernels, KERNEL)]


def _memory(rows: Rows) -> list[Promise]:
    """Bytes that a token adds: H and its gradient, and what is said of it; without H where that is on the host."""
    results = models(rows, "memory").get("BART-base", Results([]))
    states = Shape().width * BYTES
    return [
        Promise("cached_ds grows by, bytes per token", growth(results, "cached"), 2.1 * states),
        Promise('cached_ds with offload="cpu" grows by', growth(results, "cached_cpu"), 0.1 * states),
    ]


def _speed(rows: Rows) -> list[Promise]:
    found, all_models = [], models(rows, "speed")
    for model in ("BART-base", "BART-large"):
        results = all_models.get(model, Results([]))
        for length in LENGTHS:
            for peer in PEERS:
                what = f"{model}, {tokens(length)}: cached / {peer}"
                found.append(Promise(what, results.ratio("cached", peer, length), RATIOS[peer]))
    large = all_models.get("BART-large", Results([]))
    for length in LENGTHS[1:]:
        what = f"BART-large, {tokens(length)}: share of the measured matmul peak"
        found.append(Promise(what, share(large, "cached", length), SHARE, at_least=True))
    apart = worst(_disagreements(all_models.values()))
    return [*found, Promise("losses and gradient norms differ between variants by", apart, AGREE)]


def _disagreements(all_results: Iterable[Results]) -> Iterable[float]:
    """Relative differences of the variants' losses and gradient norms to those of cached_ds."""
    for results in all_results:
        for row in results.rows:
            settings, result = row["settings"], row["result"]
            for name in ("loss", "gradient_norm") if "failed" not in result else ():
                ours = results.median("cached", settings["length"], name)
                if ours is not None:
                    yield abs(result[name] / ours - 1)


def worst(errors: Iterable[float]) -> float | None:
    """The largest, infinite where one is not a number; None without any."""
    found = [error if math.isfinite(error) else math.inf for error in errors]
    return max(found, default=None)
