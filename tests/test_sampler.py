"""The length-balanced order: every document once, reproducible, and with little waiting."""

from __future__ import annotations

import random

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from cached_ds.sampler import LengthBalancedSampler, idle_share

SHAPES = {"batch_size": st.integers(1, 4), "num_ranks": st.integers(1, 5), "pool_steps": st.integers(1, 6)}


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


@pytest.mark.parametrize(("batch_size", "num_ranks"), [(1, 2), (1, 8), (2, 2), (2, 8), (4, 4)])
def test_ranks_wait_far_less_than_with_a_random_order(batch_size, num_ranks):
    for seed in range(5):
        lengths = lognormal_lengths(2000, seed=seed)
        shape = {"batch_size": batch_size, "num_ranks": num_ranks}
        shuffled = random.Random(seed).sample(range(2000), 2000)
        balanced = list(LengthBalancedSampler(lengths, seed=seed, **shape))
        assert idle_share(lengths, balanced, **shape) < 0.3 * idle_share(lengths, shuffled, **shape)


def test_no_rank_always_holds_the_longest_document():
    lengths = lognormal_lengths(400, seed=0)
    order = list(LengthBalancedSampler(lengths, batch_size=1, num_ranks=2))
    longer_on_rank_0 = sum(lengths[order[i]] > lengths[order[i + 1]] for i in range(0, 400, 2))
    assert 60 < longer_on_rank_0 < 140  # 200 fair coins leave this range once in 10**7 tries


@given(
    lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=40),
    batch_size=st.integers(1, 3),
    num_ranks=st.integers(1, 4),
)
def test_idle_share_is_what_accelerates_shards_wait(lengths, batch_size, num_ranks):
    order = list(LengthBalancedSampler(lengths, batch_size=batch_size, num_ranks=num_ranks))
    batches = BatchSampler(order, batch_size, drop_last=False)
    shards = [BatchSamplerShard(batches, num_ranks, rank) for rank in range(num_ranks)]
    steps = [[sum(lengths[i] for i in batch) for batch in step] for step in zip(*shards, strict=True)]
    expected = 1 - sum(map(sum, steps)) / (num_ranks * sum(map(max, steps)))
    assert idle_share(lengths, order, batch_size=batch_size, num_ranks=num_ranks) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["batch_size", "num_ranks", "pool_steps"])
def test_empty_shapes_are_refused(name):
    shape = {"batch_size": 1, "num_ranks": 1, "pool_steps": 1, name: 0}
    with pytest.raises(ValueError, match=f"{name}=0 is refused; allowed is an integer >= 1"):
        LengthBalancedSampler([1, 2], **shape)
