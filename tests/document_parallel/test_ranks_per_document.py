"""The choice of document_parallel: the least epoch of all divisors, and the time that the model gives to a step."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cached_ds.document_parallel.choice import StepModel, choose_document_parallel, epoch_seconds
from cached_ds.document_parallel.traffic import Traffic

TRAFFIC = Traffic(layers=2, target=3, width=8, heads=2)
NO_COST = StepModel(fixed=0, per_token=1, window=1)


def test_a_step_is_its_largest_share_and_what_it_costs_besides():
    step = StepModel(fixed=100, per_token=2, window=10, traffic=TRAFFIC, bandwidth=50, latency=7)
    assert step.seconds(45, ranks=1) == 100 + 2 * 45
    sending = TRAFFIC.sent(3) / 50 + 5 * 7
    assert step.seconds(45, ranks=3) == 100 + 2 * 20 + sending, "five windows: two, two and one"
    assert step.seconds(45, ranks=9) == 100 + 2 * 10 + TRAFFIC.sent(9) / 50 + 5 * 7, "four ranks have none"
    assert step.seconds(4, ranks=3) == 100 + 2 * 4 + sending


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.sampled_from([1, 2, 4]))
def test_no_order_of_documents_takes_less_than_the_epoch(lengths, size):
    step = StepModel(fixed=3, per_token=1, window=4)
    groups = 4 // size
    orders = itertools.permutations([step.seconds(length, ranks=size) for length in lengths])
    best = min(sum(max(order[at : at + groups]) for at in range(0, len(order), groups)) for order in orders)
    assert epoch_seconds(lengths, num_ranks=4, ranks_per_document=size, step=step) == best


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.integers(1, 24), st.integers(0, 50))
def test_the_choice_is_the_best_divisor(lengths, num_ranks, fixed):
    step = StepModel(fixed=fixed, per_token=1, window=8, traffic=TRAFFIC, bandwidth=1e4)
    chosen = choose_document_parallel(lengths, num_ranks=num_ranks, step=step)
    times = {
        size: epoch_seconds(lengths, num_ranks=num_ranks, ranks_per_document=size, step=step)
        for size in range(1, num_ranks + 1)
        if num_ranks % size == 0
    }
    assert times[chosen] == min(times.values())
    assert all(times[size] > times[chosen] for size in times if size < chosen)


@pytest.mark.parametrize(
    ("lengths", "step", "chosen"),
    [
        ([80] * 16, NO_COST, 1),  # nobody waits
        ([80] * 4, NO_COST, 2),  # half of the ranks would have no document
        ([800, 8, 8, 8, 8, 8, 8, 8], NO_COST, 8),  # seven would wait for one
        ([800, 8, 8, 8, 8, 8, 8, 8], StepModel(fixed=0, per_token=1, window=400), 2),  # two windows
        ([800, 8, 8, 8, 8, 8, 8, 8], StepModel(fixed=1000, per_token=1, window=1), 1),  # eight decoders for one
        ([800, 8, 8, 8, 8, 8, 8, 8], StepModel(fixed=0, per_token=1, window=1, traffic=TRAFFIC, bandwidth=10), 1),
    ],
)
def test_ranks_share_documents_where_that_pays(lengths, step, chosen):
    assert choose_document_parallel(lengths, num_ranks=8, step=step) == chosen


@pytest.mark.parametrize(("lengths", "num_ranks"), [([], 8), ([3], 0)])
def test_nothing_to_choose_from_is_refused(lengths, num_ranks):
    with pytest.raises(ValueError, match=f"{len(lengths)} documents on {num_ranks} ranks are refused; allowed is"):
        choose_document_parallel(lengths, num_ranks=num_ranks, step=NO_COST)
