"""Random streams: a pass can be run again with the same numbers, and the caller's generator hardly notices."""

from __future__ import annotations

import pytest
import torch

from cached_ds.replay.rng import SEED_LIMIT, RandomStreams

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


def numbers(streams, index):
    with streams.stream(index):
        return torch.rand(4)


def test_a_stream_gives_the_same_numbers_whatever_ran_between():
    streams = RandomStreams(None, CPU)
    first = numbers(streams, 2)
    torch.rand(9)
    numbers(streams, 5)
    assert torch.equal(first, numbers(streams, 2))


def test_streams_of_different_passes_and_of_different_forwards_differ():
    streams, later = RandomStreams(None, CPU), RandomStreams(None, CPU)
    drawn = [numbers(streams, 0), numbers(streams, 1), numbers(later, 0)]
    assert len({tuple(values.tolist()) for values in drawn}) == 3


def test_the_callers_generator_is_untouched_if_no_pass_drew():
    before = torch.get_rng_state()
    streams = RandomStreams(None, CPU)
    with streams.stream(0):
        torch.ones(4).sum()
    streams.settle()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("passes", [1, 100])
def test_the_callers_generator_is_advanced_by_one_draw_whatever_the_number_of_passes(passes):
    streams = RandomStreams(None, CPU)
    for index in range(passes):
        numbers(streams, index)
    streams.settle()
    after = torch.get_rng_state()
    torch.manual_seed(3)
    assert streams.seed == int(torch.randint(SEED_LIMIT, ()))
    assert torch.equal(torch.get_rng_state(), after)


def test_a_given_seed_costs_no_draw_and_is_the_callers_own():
    before = torch.get_rng_state()
    streams = RandomStreams(40, CPU)
    drawn = numbers(streams, 2)
    streams.settle()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(42)
    assert torch.equal(torch.rand(4), drawn)


def test_the_callers_generator_is_put_back_after_an_error():
    streams = RandomStreams(None, CPU)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), streams.stream(0):
        raise ZeroDivisionError(torch.rand(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_a_gpu_stream_gives_the_same_numbers_and_puts_the_devices_generator_back():
    device = torch.device("cuda", torch.cuda.current_device())
    streams, before = RandomStreams(None, device), torch.cuda.get_rng_state(device)
    drawn = []
    for _ in range(2):
        with streams.stream(1):
            drawn.append(torch.rand(4, device=device))
    assert torch.equal(*drawn)
    assert torch.equal(torch.cuda.get_rng_state(device), before)
