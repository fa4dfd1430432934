"""The machine's own float32 rate: the encoder's matmuls alone, in its shapes, with the same threads, in the same run.

A window's pass through the encoder is a list of matmuls: the linear layers (and their two of backward each), scores and
values of attention per head (and their five of backward, since fused attention computes the scores again). Every
distinct shape is timed alone, in the memory layout that the layer uses, and weighted by how often it occurs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from subjects.shape import Shape

REPEATS = 5


@dataclass(frozen=True)
class Matmul:
    """[batch, m, k] x [batch, k, n], `count` times; `transposed` names the operands that are views of transposes."""

    m: int
    k: int
    n: int
    count: int
    batch: int = 1
    transposed: str = ""

    @property
    def flops(self) -> float:
        """FLOPs of all `count` matmuls."""
        return 2.0 * self.batch * self.m * self.k * self.n * self.count

    def operands(self) -> tuple[Tensor, Tensor]:
        """Random operands, in the memory layout that the layer uses."""
        left, right = (self.batch, self.m, self.k), (self.batch, self.k, self.n)
        return _random(left, swap="a" in self.transposed), _random(right, swap="b" in self.transposed)

    def seconds(self) -> float:
        """Median seconds of one matmul, times `count`."""
        a, b = self.operands()
        run: Callable[..., Tensor] = torch.bmm
        if self.batch == 1:
            a, b, run = a[0], b[0], torch.mm
        out = run(a, b)
        return self.count * statistics.median(_timed(run, a, b, out) for _ in range(REPEATS))


def encoder_forward(shape: Shape, width: int) -> list[Matmul]:
    """The matmuls of one window of `width` tokens through all encoder layers."""
    linear = [
        Matmul(width, ins, outs, count * shape.encoder_layers, transposed="b") for ins, outs, count in _linears(shape)
    ]
    head = shape.width // shape.heads
    scores = Matmul(width, head, width, shape.encoder_layers, batch=shape.heads, transposed="b")
    values = Matmul(width, width, head, shape.encoder_layers, batch=shape.heads)
    return [*linear, scores, values]


def encoder_backward(shape: Shape, width: int) -> list[Matmul]:
    """The matmuls of the backward of `encoder_forward`."""
    found = []
    for ins, outs, count in _linears(shape):
        found.append(Matmul(width, outs, ins, count * shape.encoder_layers))  # of the input
        found.append(Matmul(outs, width, ins, count * shape.encoder_layers, transposed="a"))  # of the weight
    head, layers = shape.width // shape.heads, shape.encoder_layers
    again = Matmul(width, head, width, 2 * layers, batch=shape.heads, transposed="b")  # scores; dP = dO V^T
    turned = Matmul(width, width, head, 2 * layers, batch=shape.heads, transposed="a")  # dV = P^T dO; dK = dS^T Q
    straight = Matmul(width, width, head, layers, batch=shape.heads)  # dQ = dS K
    return [*found, again, turned, straight]


def measure(shape: Shape, length: int) -> dict[str, float]:
    """Seconds of the matmuls of all windows' forward and backward, and the rate of both in FLOP/s."""
    forward = backward = flops = 0.0
    for width, count in shape.window_widths(length).items():
        there, back = encoder_forward(shape, width), encoder_backward(shape, width)
        forward += count * sum(each.seconds() for each in there)
        backward += count * sum(each.seconds() for each in back)
        flops += count * sum(each.flops for each in [*there, *back])
    return {"forward": forward, "backward": backward, "rate": flops / (forward + backward)}


def _linears(shape: Shape) -> list[tuple[int, int, int]]:
    """(inputs, outputs, how many per layer) of a layer's linear layers: q, k, v, o; fc1; fc2."""
    width, inner = shape.width, shape.feed_forward
    return [(width, width, 4), (width, inner, 1), (inner, width, 1)]


def _random(size: tuple[int, int, int], *, swap: bool) -> Tensor:
    batch, rows, columns = size
    return torch.randn(batch, columns, rows).transpose(1, 2) if swap else torch.randn(batch, rows, columns)


def _timed(run: Callable[..., Tensor], a: Tensor, b: Tensor, out: Tensor) -> float:
    """Into memory that is there already: the kernel alone, without the system's work for fresh pages."""
    begin = time.perf_counter()
    run(a, b, out=out)
    return time.perf_counter() - begin
