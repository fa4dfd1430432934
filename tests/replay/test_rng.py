"""Random rng: a pass can be run again with the same numbers, and the caller's generator hardly notices."""

from __future__ import annotations

import pytest
import torch

from cached_ds.replay.rng import SEED_BOUND, ReplayRng

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


def numbers(rng, index):
    with rng.fork(index):
        return torch.rand(4)


def test_a_stream_gives_the_same_numbers_whatever_ran_between():
    rng = ReplayRng(None, CPU)
    first = numbers(rng, 2)
    torch.rand(9)
    numbers(rng, 5)
    assert torch.equal(first, numbers(rng, 2))


def test_streams_of_different_passes_and_of_different_forwards_differ():
    rng, later = ReplayRng(None, CPU), ReplayRng(None, CPU)
    drawn = [numbers(rng, 0), numbers(rng, 1), numbers(later, 0)]
    assert len({tuple(values.tolist()) for values in drawn}) == 3


def test_the_callers_generator_is_untouched_if_no_pass_drew():
    before = torch.get_rng_state()
    rng = ReplayRng(None, CPU)
    with rng.fork(0):
        torch.ones(4).sum()
    rng.settle()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("passes", [1, 100])
def test_the_callers_generator_is_advanced_by_one_draw_whatever_the_number_of_passes(passes):
    rng = ReplayRng(None, CPU)
    for index in range(passes):
        numbers(rng, index)
    rng.settle()
    after = torch.get_rng_state()
    torch.manual_seed(3)
    assert rng.seed == int(torch.randint(SEED_BOUND, ()))
    assert torch.equal(torch.get_rng_state(), after)


def test_a_given_seed_costs_no_draw_and_is_the_callers_own():
    before = torch.get_rng_state()
    rng = ReplayRng(40, CPU)
    drawn = numbers(rng, 2)
    rng.settle()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(42)
    assert torch.equal(torch.rand(4), drawn)


def test_the_callers_generator_is_put_back_after_an_error():
    rng = ReplayRng(None, CPU)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), rng.fork(0):
        raise ZeroDivisionError(torch.rand(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_a_gpu_stream_gives_the_same_numbers_and_puts_the_devices_generator_back():
    device = torch.device("cuda", torch.cuda.current_device())
    rng, before = ReplayRng(None, device), torch.cuda.get_rng_state(device)
    drawn = []
    for _ in range(2):
        with rng.fork(1):
            drawn.append(torch.rand(4, device=device))
    assert torch.equal(*drawn)
    assert torch.equal(torch.cuda.get_rng_state(device), before)
