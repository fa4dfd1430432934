"""Two ranks that share documents find what full backpropagation finds, and what one process draws and writes."""

from __future__ import annotations

import pytest
import torch

from cached_ds.document_parallel.traffic import Traffic
from helpers import engines, sharing, tiny
from helpers.compare import EXACT
from helpers.engines import FP32
from probes import collectives

MIXED = (75, 30, 3)  # uneven shares; the border of the ranks is inside a document
BATCHES = {"mixed": MIXED, "one-window": (9,), "short-and-long": (3, 120), "two-short": (5, 5)}
SIZES = {"steps": 2, "accumulation": 2}
pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("lengths", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("family", ["bart", "led", "t5"])
def test_gradients_are_those_of_the_full_graph(ranks, family, lengths, dropout):
    options = {"family": family, "lengths": lengths, "dropout": dropout, "tile": 10}  # tiles cross the ranks' border
    assert max(ranks.run(sharing.against_oracle, **options)) < EXACT


@pytest.mark.parametrize(
    "fields",
    [
        {"schedule": "layer"},
        {"offload": "cpu"},
        {"offload": "disk"},
        {"schedule": "layer", "offload": "disk"},
        {"recompute": "auto"},
    ],
    ids=str,
)
@pytest.mark.parametrize("lengths", [MIXED, (9,)], ids=["mixed", "one-window"])
def test_gradients_with_other_settings(ranks, fields, lengths):
    for family in ("bart", "t5"):
        options = {"family": family, "lengths": lengths, "dropout": 0.1, "tile": 10, **fields}
        assert max(ranks.run(sharing.against_oracle, **options)) < EXACT


@pytest.mark.parametrize("lengths", [MIXED, (9,)], ids=["mixed", "one-window"])
@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.0, "windows_per_pass": 3},
        {"dropout": 0.1},
        {"adapters": 0.5},
        {"dropout": 0.1, "adapters": 0.5},
        {"dropout": 0.1, "change": sharing.skip_layers},
        {"dropout": 0.1, "change": sharing.freeze_encoder},
        {"dropout": 0.1, "change": sharing.checkpoint},
    ],
    ids=["windows-per-pass", "dropout", "lora", "lora-dropout", "layerdrop", "frozen-encoder", "checkpointing"],
)
def test_nothing_depends_on_the_number_of_ranks(ranks, options, lengths):
    for error, follows in ranks.run(sharing.against_one, family="bart", lengths=lengths, tile=10, **options):
        assert error < EXACT
        assert follows, "the caller's generator is where one process leaves it"


@pytest.mark.parametrize("lengths", [MIXED, (9,)], ids=["mixed", "one-window"])
def test_bf16_rounds_no_more_than_in_one_process(ranks, lengths):
    for shared, alone in ranks.run(sharing.rounding, lengths=lengths):
        assert shared < 1.2 * alone  # they round at other places


@pytest.mark.parametrize("engine", engines.ENGINES[1:])
@pytest.mark.parametrize("windows", [(1, 1), (7, 7)], ids=["one-window", "seven"])
def test_parity_under_engines(zero_ranks, engine, windows):
    options = {"engine": engine, "windows": windows, "dropout": 0.1, "document_parallel": 2, **SIZES}
    for family in ("bart", "led", "t5"):
        assert max(zero_ranks.run(engines.parity, family=family, **options)) < FP32


@pytest.mark.parametrize("engine", engines.ENGINES[1:])
def test_parity_under_engines_and_the_layer_schedule(zero_ranks, engine):
    options = {"engine": engine, "windows": (7, 7), "dropout": 0.1, "document_parallel": 2, **SIZES}
    assert max(zero_ranks.run(engines.parity, family="bart", schedule="layer", **options)) < FP32


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["window", "layer"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("ranks_per_document", [1, 2, 4])
@pytest.mark.parametrize("engine", engines.ENGINES[1:])
@pytest.mark.parametrize("family", ["bart", "led", "t5"])
def test_four_ranks(four_ranks, family, engine, ranks_per_document, dropout, schedule):
    """Meshes of 4x1, 2x2 and 1x4; a document of one window leaves ranks without any, others have uneven shares."""
    options = {"dropout": dropout, "schedule": schedule, "document_parallel": ranks_per_document, **SIZES}
    options |= {"family": family, "engine": engine, "windows": (1, 9, 2, 5), "timeout": 200}
    assert max(four_ranks.run(engines.parity, **options)) < FP32
    if engine in ("ddp", "fsdp2"):
        assert max(four_ranks.run(engines.parity, dtype=torch.float64, **options)) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("cross_cache", ["kv", "none"])
def test_two_ranks_write_about_a_long_document_what_one_writes(ranks, cross_cache):
    """Of 65,536 tokens, in thousands of windows."""
    for way in ({}, {"num_beams": 4}):
        options = {"family": "bart", "lengths": (65536,), "cross_cache": cross_cache, **way}
        (alone, _), shared = (ranks.run(sharing.summaries, ranks=count, timeout=300, **options) for count in (1, 2))
        assert shared == [alone, alone]


def test_bytes_do_not_depend_on_the_length(ranks):
    few, many = (ranks.run(sharing.sent, lengths=lengths) for lengths in ((30, 9), (4000, 9)))
    assert few == many
    documents, target, layers, heads = 2, 6, 2, 2
    outputs, sums = (documents * target * count * torch.float64.itemsize for count in (tiny.WIDTH, heads))
    states = len(torch.get_rng_state()) + 16
    traffic = Traffic(layers=layers, target=target, width=tiny.WIDTH, heads=heads, documents=documents, itemsize=8)
    for found in few:
        assert found["all-gather"] == {"count": 1 + layers, "bytes": 2 * (states + layers * (outputs + sums))}
        assert found["all-reduce"] == {"count": layers, "bytes": layers * outputs}, "of the queries' gradients"
        assert len(found) == 2
        assert (collectives.sent(found, 2), collectives.count(found)) == (traffic.sent(2), traffic.collectives)


def test_each_rank_holds_and_counts_its_share(ranks):
    found = ranks.run(sharing.rows_held, lengths=(2000, 100, 9))
    assert all(states == of_gradient == counted for states, of_gradient, counted, _ in found)
    whole = found[0][-1]
    assert sum(states for states, *_ in found) == whole
    assert max(states for states, *_ in found) <= min(whole / 2 + tiny.WINDOW, 1.05 * whole / 2)


def test_a_model_that_has_read_can_be_copied_and_pickled(ranks):
    first, *others = ranks.run(sharing.of_copies, lengths=MIXED)[0]
    assert others == [first, first]


@pytest.mark.parametrize(("at", "rank"), [(20, 0), (70, 1)])
def test_the_rank_that_has_a_bad_window_names_it(ranks, at, rank):
    found = ranks.run(sharing.bad_windows, at=at)
    assert found[rank] == (f"window {1 + (at - 1) // (tiny.WINDOW - 2)} of 6", None)
    assert found[1 - rank] == (None, None)


@pytest.mark.parametrize("cross_cache", ["kv", "none"])
@pytest.mark.parametrize("lengths", [(75, 30), (9,)], ids=["long", "one-window"])
@pytest.mark.parametrize(
    "way", [{}, {"num_beams": 4}, {"do_sample": True, "num_return_sequences": 3}], ids=["greedy", "beams", "samples"]
)
def test_all_ranks_write_what_one_writes(ranks, way, lengths, cross_cache):
    for family in ("bart", "t5"):
        options = {"family": family, "lengths": lengths, "cross_cache": cross_cache, **way}
        (alone, _), shared = (ranks.run(sharing.summaries, ranks=count, **options) for count in (1, 2))
        assert shared == [alone, alone]


def test_evaluation_finds_what_one_process_finds(ranks):
    for family in ("bart", "t5"):
        (alone, _), shared = (
            ranks.run(sharing.evaluated, family=family, lengths=MIXED, ranks=count) for count in (1, 2)
        )
        assert torch.equal(shared[0], shared[1])
        torch.testing.assert_close(shared[0], alone, rtol=EXACT, atol=EXACT)
