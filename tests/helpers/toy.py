"""A toy encoder for the tests of replay: a small network with dropout over a list of chunks, and its full graph."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from cached_ds.replay.by_window import ReplayPlan, replay
from cached_ds.replay.rng import ReplayRng

WIDTH, SEED = 4, 11
# Sums of at most 100 float64 products in another order: about 100 x 1e-16, with room.
EXACT = {"rtol": 1e-12, "atol": 1e-14}


@dataclass(frozen=True)
class Chunk:
    """A pass: rows `rows` of the input, encoded together."""

    index: int
    rows: torch.Tensor
    inputs: torch.Tensor

    @property
    def spans(self):
        return [slice(row, row + 1) for row in self.rows.tolist()]


class Toy:
    """`length` inputs for a network, cut into chunks; counts how often the network runs."""

    def __init__(self, net, *, length=10, per_pass=3, dtype=torch.float64):
        self.net, self.calls = net, 0
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(length, WIDTH, generator=generator).to(dtype)
        # Chunks are out of order, as passes sorted by length are: the rows must say where the states go.
        order = torch.randperm(length, generator=generator).split(per_pass)
        self.passes = [Chunk(3 * number, rows, inputs[rows]) for number, rows in enumerate(order)]
        self.weights = torch.randn(length, WIDTH, generator=generator).to(dtype)

    def encode(self, chunk):
        self.calls += 1
        return self.net(chunk.inputs)

    def trainable(self):
        return [p for p in self.net.parameters() if p.requires_grad]

    def states(self, parameters=None, **changes):
        """The replayed states; a new forward each time. `changes` are fields of the plan."""
        anchor = torch.zeros((), requires_grad=torch.is_grad_enabled())
        rng = ReplayRng(SEED, torch.device("cpu"))
        plan = ReplayPlan(passes=self.passes, rng=rng, shape=(len(self.weights),), anchor=anchor)
        return replay(self.encode, dataclasses.replace(plan, **changes), parameters=parameters or self.trainable)

    def full_graph(self):
        """The same states by a graph of everything."""
        states = torch.zeros_like(self.weights)
        for chunk in self.passes:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED + chunk.index)
                states = states.index_copy(0, chunk.rows, self.net(chunk.inputs).to(states.dtype))
        return states

    def loss(self, states):
        """Not linear in the states, so that every row has a gradient of its own."""
        return (states.tanh() * self.weights).sum()


def make_net(*, dtype=torch.float64, dropout=0.5):
    """Two linear layers with dropout between them."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, WIDTH)).to(dtype)


def gradients(loss, parameters, **options):
    """Gradients by `backward`, as an optimizer would find them."""
    for parameter in parameters:
        parameter.grad = None
    loss.backward(**options)
    return [None if p.grad is None else p.grad.clone() for p in parameters]
