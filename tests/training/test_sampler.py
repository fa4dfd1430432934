"""The length-balanced order: every document once, reproducible, and with little waiting."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cached_ds.training.sampler import LengthBalancedSampler
from probes.idle import idle_share

SHAPES = {"batch_size": st.integers(1, 4), "num_ranks": st.integers(1, 5), "jitter": st.sampled_from((0, 0.04, 2.0))}


def lognormal_lengths(number: int, *, seed: int) -> list[int]:
    """Documents of 300 to 30,000 tokens: the middle 98% of the distribution spans a factor of 100."""
    rng = random.Random(seed)
    return [int(min(30_000, max(300, 3000 * rng.lognormvariate(0, 1)))) for _ in range(number)]


@given(lengths=st.lists(st.integers(1, 1000), max_size=60), epoch=st.integers(0, 3), **SHAPES)
def test_every_document_comes_exactly_once(lengths, epoch, **shape):
    sampler = LengthBalancedSampler(lengths, **shape)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    assert len(sampler) == len(order)


@given(seed=st.integers(0, 10**6), epoch=st.integers(0, 100))
def test_the_order_is_a_function_of_seed_and_epoch(seed, epoch):
    lengths = lognormal_lengths(50, seed=0)
    first, second, other_seed = (
        LengthBalancedSampler(lengths, batch_size=2, num_ranks=2, seed=value) for value in (seed, seed, seed + 1)
    )
    for sampler in (first, second, other_seed):
        sampler.set_epoch(epoch)
    order = list(first)
    assert order == list(first) == list(second)
    assert order != list(other_seed)
    first.set_epoch(epoch + 1)
    assert order != list(first)


@given(seed=st.integers(0, 1000), skipped=st.integers(0, 50))
def test_an_epoch_can_be_taken_up_in_its_middle(seed, skipped):
    shape = {"batch_size": 2, "num_ranks": 3, "seed": seed}
    whole = LengthBalancedSampler(lognormal_lengths(50, seed=1), **shape)
    resumed = LengthBalancedSampler(lognormal_lengths(50, seed=1), **shape)
    for _ in range(2):  # what was run before leaves no trace
        list(whole)
    for sampler in (whole, resumed):
        sampler.set_epoch(3)
    assert list(itertools.islice(resumed, skipped, None)) == list(whole)[skipped:]


@given(lengths=st.lists(st.integers(1, 10**6), min_size=1, max_size=60, unique=True), num_ranks=st.integers(1, 9))
def test_the_last_step_is_filled_with_documents_as_long_as_its_own(lengths, num_ranks):
    order = list(LengthBalancedSampler(lengths, batch_size=1, num_ranks=num_ranks, jitter=0))
    num_steps, leftover = divmod(len(order), num_ranks)
    if num_steps and leftover:
        last = [*order[-leftover:], *order[: num_ranks - leftover]]
        by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
        start = min(by_length.index(document) for document in last)
        assert sorted(last) == sorted(by_length[start : start + num_ranks])


@given(lengths=st.lists(st.integers(1, 10**6), min_size=1, max_size=60, unique=True), **SHAPES)
def test_the_longest_document_comes_within_the_first_two_steps(lengths, batch_size, num_ranks, jitter):
    del jitter  # it may put the longest document among those left over
    per_step = batch_size * num_ranks
    order = list(LengthBalancedSampler(lengths, batch_size=batch_size, num_ranks=num_ranks, jitter=0))
    assert len(lengths) < per_step or lengths.index(max(lengths)) in order[: 2 * per_step]


def test_partners_in_a_step_change_from_epoch_to_epoch():
    sampler = LengthBalancedSampler(lognormal_lengths(2000, seed=0), batch_size=1, num_ranks=8)
    pairs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = list(sampler)
        steps = [sorted(order[start : start + 8]) for start in range(0, 2000, 8)]
        pairs.append({pair for step in steps for pair in itertools.combinations(step, 2)})
    assert len(pairs[0] & pairs[1]) < 0.12 * len(pairs[0])  # 0.08; without jitter 0.96


@pytest.mark.parametrize(("batch_size", "num_ranks"), [(1, 2), (1, 8), (2, 2), (2, 8), (4, 4)])
def test_ranks_wait_far_less_than_with_a_random_order(batch_size, num_ranks):
    for seed in range(5):
        lengths = lognormal_lengths(2000, seed=seed)
        shape = {"batch_size": batch_size, "num_ranks": num_ranks}
        shuffled = random.Random(seed).sample(range(2000), 2000)
        balanced = list(LengthBalancedSampler(lengths, seed=seed, **shape))
        assert idle_share(lengths, balanced, **shape) < 0.3 * idle_share(lengths, shuffled, **shape)


@pytest.mark.parametrize("spread", [0.6, 0.9])
def test_waiting_on_64_ranks_is_a_quarter_of_that_with_a_random_order(spread):
    rng = random.Random(0)
    lengths = [1 + int(3500 * rng.lognormvariate(0, spread)) for _ in range(9600)]  # like the chapters of BookSum
    shape = {"batch_size": 1, "num_ranks": 64}
    shuffled = rng.sample(range(9600), 9600)
    balanced = list(LengthBalancedSampler(lengths, **shape))
    assert idle_share(lengths, balanced, **shape) < 0.25 * idle_share(lengths, shuffled, **shape)


def test_no_rank_always_holds_the_longest_document():
    lengths = lognormal_lengths(400, seed=0)
    order = list(LengthBalancedSampler(lengths, batch_size=1, num_ranks=2))
    longer_on_rank_0 = sum(lengths[order[i]] > lengths[order[i + 1]] for i in range(0, 400, 2))
    assert 60 < longer_on_rank_0 < 140  # 200 fair coins leave this range once in 10**7 tries


@pytest.mark.parametrize("name", ["batch_size", "num_ranks"])
def test_empty_shapes_are_refused(name):
    shape = {"batch_size": 1, "num_ranks": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name}=0 is refused; allowed is an integer >= 1"):
        LengthBalancedSampler([1, 2], **shape)


@pytest.mark.parametrize("jitter", [-0.1, float("inf"), float("nan")])
def test_a_jitter_that_is_no_deviation_is_refused(jitter):
    with pytest.raises(ValueError, match=f"jitter={jitter} is refused; allowed is a number >= 0"):
        LengthBalancedSampler([1, 2], batch_size=1, num_ranks=1, jitter=jitter)
