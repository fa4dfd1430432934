"""Replay: states and gradients are those of the full graph, in any precision, whatever is kept or frozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.toy import EXACT, WIDTH, Chunk, Toy, gradients, make_net


@pytest.mark.parametrize("num_saved", [0, 2, 4, 100])
@pytest.mark.parametrize("per_pass", [1, 3, 10])
def test_states_and_gradients_are_those_of_the_full_graph(num_saved, per_pass):
    toy = Toy(make_net(), per_pass=per_pass)
    states, expected_states = toy.states(num_saved=num_saved), toy.full_graph()
    assert torch.equal(states, expected_states)
    found = gradients(toy.loss(states), toy.trainable())
    expected = gradients(toy.loss(expected_states), toy.trainable())
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize(("num_saved", "calls"), [(0, 8), (1, 7), (3, 5), (4, 4), (100, 4)])
def test_each_pass_runs_twice_and_a_kept_one_once(num_saved, calls):
    toy = Toy(make_net())
    toy.loss(toy.states(num_saved=num_saved)).backward()
    assert toy.calls == calls


def test_rows_that_no_pass_fills_are_zero():
    toy = Toy(make_net())
    states = toy.states(shape=(12,))
    assert torch.equal(states[10:], torch.zeros(2, WIDTH, dtype=states.dtype))


def test_bf16_gradients_are_summed_in_float32():
    net = nn.Linear(WIDTH, WIDTH, bias=False).to(torch.bfloat16)
    toy = Toy(net, length=600, per_pass=1, dtype=torch.bfloat16)
    toy.passes = [Chunk(chunk.index, chunk.rows, chunk.inputs.abs() + 1) for chunk in toy.passes]
    (found,) = gradients(toy.states().float().sum(), toy.trainable())
    each = [torch.autograd.grad(net(chunk.inputs).float().sum(), net.weight)[0] for chunk in toy.passes]
    wide = torch.stack(each).float().sum(dim=0)
    narrow = torch.zeros_like(net.weight)
    for gradient in each:
        narrow = narrow + gradient
    # Rounding the sum once to bf16 is off by at most half a unit of its 8 bits: 2**-9, and 2**-8 to be safe.
    torch.testing.assert_close(found.float(), wide, rtol=2**-8, atol=0)
    assert ((narrow.float() - wide) / wide).abs().min() > 0.1, "a bf16 sum stops growing at 256 times its addends"


@pytest.mark.parametrize("inside", [True, False], ids=["backward-inside", "backward-outside"])
@pytest.mark.parametrize("num_saved", [0, 2, 100])
def test_autocast_is_replayed(inside, num_saved):
    toy = Toy(make_net(dtype=torch.float32), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        states = toy.states(num_saved=num_saved)
        expected_states = toy.full_graph()
        found = gradients(toy.loss(states), toy.trainable()) if inside else None
    found = gradients(toy.loss(states), toy.trainable()) if found is None else found
    expected = gradients(toy.loss(expected_states), toy.trainable())
    assert torch.equal(states.float(), expected_states)
    # The full graph adds the passes' bf16 gradients of a weight in bf16 (8 bits), four times here; ours in float32.
    torch.testing.assert_close(found, expected, rtol=4 * 2**-8, atol=4 * 2**-8)
    assert all(gradient.dtype == torch.float32 for gradient in found)


def tied_gap(toy):
    """Relative error of a weight's gradient that the decoder uses too, under the same autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        losses = [toy.loss(nn.functional.linear(h, toy.net[0].weight)[:, :WIDTH]) for h in both_states(toy)]
        (found, *_), (expected, *_) = (gradients(loss, [toy.net[0].weight]) for loss in losses)
    return ((found - expected).norm() / expected.norm()).item()


def both_states(toy):
    yield toy.states()
    torch.clear_autocast_cache()
    yield toy.full_graph()


def test_a_tied_weight_keeps_its_later_gradient_under_autocast():
    """Torch before #165068 cached weights cast under no_grad without their gradient (pytorch #48049); 2.13 does not."""
    toy = Toy(make_net(dtype=torch.float32), dtype=torch.float32)
    assert tied_gap(toy) < 2**-6  # a few roundings to bf16, 2**-8 each


@pytest.mark.parametrize("frozen", [["0.weight"], ["0.weight", "0.bias"], ["3.weight", "3.bias"]])
def test_a_partly_frozen_network(frozen):
    toy = Toy(make_net())
    for name in frozen:
        toy.net.get_parameter(name).requires_grad_(False)
    found = gradients(toy.loss(toy.states()), toy.trainable())
    expected = gradients(toy.loss(toy.full_graph()), toy.trainable())
    torch.testing.assert_close(found, expected, **EXACT)
    assert all(toy.net.get_parameter(name).grad is None for name in frozen)


def test_a_frozen_network_is_not_run_again():
    toy = Toy(make_net())
    toy.net.requires_grad_(False)
    states = toy.states(num_saved=2)
    assert not states.requires_grad
    assert torch.equal(states, toy.full_graph())
    assert toy.calls == len(toy.passes)


def test_a_forward_without_grad_keeps_nothing():
    toy, saved = Toy(make_net()), []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda t: t)
    with torch.no_grad(), hooks:
        states = toy.states(num_saved=100)
    assert states.grad_fn is None and not states.requires_grad
    assert not saved
    assert torch.equal(states, toy.full_graph())


def test_what_is_saved_does_not_grow_with_the_document():
    def saved_elements(length):
        toy, sizes = Toy(make_net(), length=length, per_pass=1), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            toy.states()
        return sum(sizes)

    assert saved_elements(3) == saved_elements(300) == 1 + sum(p.numel() for p in make_net().parameters())
