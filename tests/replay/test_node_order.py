"""Nodes of autograd hand gradients on in an order that engines on a GPU rely on: parameters first, the anchor last.

With H on the host, a node would run in another thread than the hooks of the device's parameters. Then the order of its
inputs, and an output on the device, decide whether an engine finds the gradients when it reduces.
"""

from __future__ import annotations

import pytest
import torch

from cached_ds import attach
from cached_ds.replay.sums import device_output
from helpers import tiny

NODES = ("_ReplayBackward", "_ReplayLayerBackward", "_AttendBackward")


def nodes_of(tensor):
    """All nodes behind a tensor."""
    found, left = set(), [tensor.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [following for following, _ in node.next_functions]
    return found


@pytest.mark.parametrize("offload", ["none", "cpu", "disk"])
@pytest.mark.parametrize("schedule", ["window", "layer"])
def test_the_anchor_comes_after_all_parameters(schedule, offload):
    model = attach(tiny.make_model("bart"), window=tiny.WINDOW, schedule=schedule, offload=offload)
    loss = model(**tiny.make_batch("bart", (75, 30))).loss
    found = [node for node in nodes_of(loss) if node.name() in NODES]
    parameters = {id(parameter) for parameter in model.parameters()}
    assert {node.name() for node in found} >= {"_AttendBackward", NODES[schedule == "layer"]}
    for node in found:
        inputs = [following for following, _ in node.next_functions if following is not None]
        is_parameter = [id(getattr(following, "variable", None)) in parameters for following in inputs]
        count = sum(is_parameter)
        assert count and is_parameter == [True] * count + [False] * (len(inputs) - count), node.name()


def test_the_second_output_lives_where_the_anchor_does():
    assert device_output(torch.zeros((), device="meta")).device.type == "meta"


@pytest.mark.gpu
@pytest.mark.parametrize("schedule", ["window", "layer"])
def test_nodes_with_states_on_the_host_run_in_the_devices_thread(schedule):
    """All hooks of parameters, and the one behind the anchor, are called from one thread."""
    import threading

    model = attach(tiny.make_model("bart"), window=tiny.WINDOW, schedule=schedule, offload="cpu").cuda()
    threads = set()
    for parameter in model.get_encoder().parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: threads.add(threading.get_ident()))
    loss = model(**{name: value.cuda() for name, value in tiny.make_batch("bart", (75, 30)).items()}).loss
    for node in nodes_of(loss):
        if node.name() in NODES:
            node.register_prehook(lambda _: threads.add(threading.get_ident()))
    loss.backward()
    assert len(threads) == 1
