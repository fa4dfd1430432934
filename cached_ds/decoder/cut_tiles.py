"""Cut tiles: a tile of which a rank holds a part, with the random numbers of the whole (document_parallel/).

Tiles are cut by the document and not by the ranks that share it, so that dropout does not depend on their number. At
the border of two ranks' shares lies a tile of which each has some columns. Where something is drawn, both draw for the
whole tile and use their own columns: the part is widened by columns that no query attends to.

How no query attends to them: queries and keys get a few features more. The first is 1 in all queries, and in the keys 0
for own columns and very negative for others, whose weights become zero. So any kernel serves as it is.

Shapes: S own columns, W those of the whole tile, T target length, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cached_ds.decoder.tile_kernels import Kernel, Triple

MORE = 8  # features; fused kernels take head widths that are multiples of it
UNSEEN = -3e4  # within fp16; far below any score, so that its exponential is zero


@dataclass(frozen=True)
class Part:
    """The columns [before, W - after) of a tile."""

    before: int
    after: int

    def widened(self, rows: Tensor, *, fill: float = 0.0) -> Tensor:
        """Rows [..., S, D] as those of the whole tile [..., W, D], with `fill` around them."""
        return F.pad(rows, (0, 0, self.before, self.after), value=fill)

    def own(self, rows: Tensor) -> Tensor:
        """The own rows [..., S, D] of those of the whole tile [..., W, D]."""
        return rows.narrow(-2, self.before, rows.shape[-2] - self.before - self.after)


@dataclass(frozen=True)
class PartKernel:
    """A kernel for a part of a tile, which draws as for the whole; see `Kernel` for its methods."""

    kernel: Kernel
    part: Part

    @property
    def draws(self) -> tuple[bool, bool]:
        """As the kernel."""
        return self.kernel.draws

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Output and log-sum-exp of the part, and the kernel's state."""
        out, lse, state = self.kernel.forward(*self._inputs(q, k, v))
        return out.narrow(-1, 0, q.shape[-1]), lse, state

    def backward(
        self, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, state: Any
    ) -> Triple:
        """Gradients of q, k and v through the part."""
        inputs = self._inputs(q, k, v)
        found = self.kernel.backward(_longer(gradient), *inputs, _longer(out), lse, state)
        of_q, of_k, of_v = (rows.narrow(-1, 0, q.shape[-1]) for rows in found)
        return of_q, self.part.own(of_k), self.part.own(of_v)

    def _inputs(self, q: Tensor, k: Tensor, v: Tensor) -> Triple:
        queries = F.pad(F.pad(q, (0, 1), value=1), (0, MORE - 1))
        seen = self.part.widened(torch.zeros_like(k.narrow(-1, 0, 1)), fill=UNSEEN)
        keys = F.pad(torch.cat([self.part.widened(k), seen], dim=-1), (0, MORE - 1))
        return queries, keys, self.part.widened(_longer(v))


def _longer(rows: Tensor) -> Tensor:
    """Rows [..., D] with more features, all zero."""
    return F.pad(rows, (0, MORE))
