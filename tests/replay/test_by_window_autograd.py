"""Replay as a good citizen of autograd: several forwards, hooks, retained graphs, random state, and clear refusals."""

from __future__ import annotations

import pytest
import torch

from helpers.toy import EXACT, Toy, gradients, make_net


@pytest.fixture
def toy():
    return Toy(make_net())


def expected_gradients(toy, times=1):
    return gradients(times * toy.loss(toy.full_graph()), toy.trainable())


@pytest.mark.parametrize("num_saved", [0, 2])
def test_two_forwards_before_one_backward(toy, num_saved):
    found = gradients(
        toy.loss(toy.states(num_saved=num_saved)) + toy.loss(toy.states(num_saved=num_saved)), toy.trainable()
    )
    torch.testing.assert_close(found, expected_gradients(toy, times=2), **EXACT)


@pytest.mark.parametrize("num_saved", [0, 2, 100])
def test_a_retained_graph_gives_the_gradients_again(toy, num_saved):
    loss = toy.loss(toy.states(num_saved=num_saved))
    loss.backward(retain_graph=True)
    loss.backward()
    found = [p.grad.clone() for p in toy.trainable()]
    torch.testing.assert_close(found, expected_gradients(toy, times=2), **EXACT)


@pytest.mark.parametrize("num_saved", [0, 100])
def test_a_second_backward_without_retain_graph_raises_torchs_error(toy, num_saved):
    states = toy.states(num_saved=num_saved)
    states.sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        states.sum().backward()


def test_gradients_of_a_few_tensors_only(toy):
    found = torch.autograd.grad(toy.loss(toy.states()), [toy.net[3].bias])
    torch.testing.assert_close(found[0], expected_gradients(toy)[3], **EXACT)


def test_create_graph_is_refused(toy):
    with pytest.raises(RuntimeError, match="create_graph=True .* is not possible through replay"):
        torch.autograd.grad(toy.loss(toy.states()), toy.trainable(), create_graph=True)


@pytest.mark.parametrize("num_saved", [0, 100])
def test_parameters_changed_between_forward_and_backward_are_refused(toy, num_saved):
    states = toy.states(num_saved=num_saved)
    with torch.no_grad():
        toy.net[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        states.sum().backward()


def test_a_tensor_hook_is_refused(toy):
    handle = toy.net[0].weight.register_hook(lambda gradient: gradient)
    with pytest.raises(RuntimeError, match="use register_post_accumulate_grad_hook"):
        toy.states()
    handle.remove()
    toy.states()


def test_hooks_fire_once_per_backward_with_the_whole_gradient(toy):
    seen = []
    weight = toy.net[0].weight
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    toy.loss(toy.states()).backward()
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected_gradients(toy)[0], **EXACT)


def test_an_unused_parameter_gets_zeros(toy):
    extra = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    states = toy.states(parameters=lambda: [*toy.trainable(), extra])
    states.sum().backward()
    assert torch.equal(extra.grad, torch.zeros_like(extra))


def test_the_parameters_may_be_swapped_between_forward_and_backward(toy):
    """As FSDP2 and ZeRO-3 do: the tensors asked for in backward are other objects with the same values."""
    expected = expected_gradients(toy)
    state = toy.net.state_dict()
    old = toy.trainable()
    loss = toy.loss(toy.states())
    for index in (0, 3):
        for name in ("weight", "bias"):
            setattr(toy.net[index], name, torch.nn.Parameter(state[f"{index}.{name}"].clone()))
    found = gradients(loss, old)
    torch.testing.assert_close(found, expected, **EXACT)


def test_the_callers_random_state_is_left_alone(toy):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loss = toy.loss(toy.states())
    assert torch.equal(torch.get_rng_state(), before)
    loss.backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_drawing_between_forward_and_backward_changes_nothing(toy):
    loss = toy.loss(toy.states())
    torch.manual_seed(99)
    torch.rand(1000)
    found = gradients(loss, toy.trainable())
    torch.testing.assert_close(found, expected_gradients(toy), **EXACT)
