"""Tile kernels: attention to one tile of a document, forward and backward, with results that can be merged.

Attention over tiles is exact: with the log-sum-exp of each tile's scores, outputs of tiles merge (online softmax); and
with the log-sum-exp and output of *all* tiles, backward through one tile needs that tile's keys and values only. So
fused kernels that return the log-sum-exp serve as they are, tile by tile (Dao et al., FlashAttention, 2022):

  FlashCpu       CPU, any floating dtype, without dropout.
  FlashCuda      fp16 and bf16 on GPUs that have it, with dropout.
  EfficientCuda  on GPUs float32, and what flash does not take; with dropout.
  Plain          matmuls, everything else: dropout on the CPU, float64 on GPUs; the reference in tests.

Shapes: H heads, T target length, S tile length, D head width; q [1, H, T, D], k and v [1, H, S, D], out as q,
lse [1, H, T].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cached_ds.settings import device_sizes

SCORES = 2**26  # of one tile that `Plain` may hold, where that leaves a tile of at least MIN_TILE tokens
MIN_TILE = 1024
aten = torch.ops.aten
Triple = tuple[Tensor, Tensor, Tensor]


class Kernel(Protocol):
    """One way to compute a tile; dropout is drawn from the generators in force."""

    @property
    def draws(self) -> tuple[bool, bool]:
        """Whether forward and backward draw random numbers."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Output and log-sum-exp of one tile, and the state with which backward drops the same weights."""

    def backward(
        self, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, state: Any
    ) -> Triple:
        """Gradients of q, k and v through one tile; `out` and `lse` are those of all tiles together."""


def kernel_for(q: Tensor, *, scale: float, dropout: float) -> Kernel:
    """The fastest kernel for tensors like `q`."""
    if q.device.type == "cpu" and not dropout:
        return FlashCpu(scale)
    if q.device.type == "cuda":
        params = torch.backends.cuda.SDPAParams(q, q, q, None, dropout, False, False)
        if q.shape[-1] % 8 == 0 and torch.backends.cuda.can_use_flash_attention(params):
            return FlashCuda(scale, dropout)
        if torch.backends.cuda.can_use_efficient_attention(params):
            return EfficientCuda(scale, dropout)
    return Plain(scale, dropout)


def tile_size(kernel: Kernel, q: Tensor) -> int:
    """Source tokens of a tile for queries [B, H, T, D], where the config leaves it open."""
    size = device_sizes.tile(q.device)
    return min(size, max(MIN_TILE, SCORES // q[0, ..., 0].numel())) if isinstance(kernel, Plain) else size


def merge_(out: Tensor, lse: Tensor, tile_out: Tensor, tile_lse: Tensor) -> None:
    """Add a tile to the output and log-sum-exp of the tiles so far, in place (`lse` starts at minus infinity)."""
    total = torch.logaddexp(lse, tile_lse)
    out.mul_((lse - total).exp_().unsqueeze(-1)).addcmul_(tile_out, (tile_lse - total).exp_().unsqueeze(-1))
    lse.copy_(total)


@dataclass(frozen=True)
class FlashCpu:
    """PyTorch's fused CPU kernel."""

    scale: float

    @property
    def draws(self) -> tuple[bool, bool]:
        """Never: it has no dropout."""
        return False, False

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, None]:
        """Output and log-sum-exp; there is no dropout, and so no state."""
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, scale=self.scale)
        return out, lse, None

    def backward(
        self, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, state: None
    ) -> Triple:
        """Gradients of q, k and v; `state` is None."""
        assert state is None, "no dropout"
        return aten._scaled_dot_product_flash_attention_for_cpu_backward(
            gradient, q, k, v, out, lse, 0.0, False, scale=self.scale
        )


@dataclass(frozen=True)
class _Counted:
    """A fused kernel whose dropout is replayed from the counter that forward returns."""

    scale: float
    dropout: float

    @property
    def draws(self) -> tuple[bool, bool]:
        """In forward; backward has the counter that forward returned."""
        return self.dropout > 0, False


class FlashCuda(_Counted):
    """FlashAttention as PyTorch ships it."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Output, log-sum-exp, and the state that the fused backward takes: bounds of sequences, seed and offset."""
        out, lse, *state, _ = aten._scaled_dot_product_flash_attention(
            q, k, v, self.dropout, False, False, scale=self.scale
        )
        return out, lse, state

    def backward(
        self, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, state: Any
    ) -> Triple:
        """Gradients of q, k and v; dropout comes from `state`, not from the generators."""
        cum_q, cum_k, max_q, max_k, seed, offset = state
        return aten._scaled_dot_product_flash_attention_backward(
            gradient, q, k, v, out, lse, cum_q, cum_k, max_q, max_k, self.dropout, False, seed, offset, scale=self.scale
        )


class EfficientCuda(_Counted):
    """Memory-efficient attention as PyTorch ships it.

    Its log-sum-exp is padded to whole blocks of queries, with infinity: their weights are zero in backward.
    """

    BLOCK = 32

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Any]:
        """Output, log-sum-exp, and the state that backward takes: seed and offset."""
        out, lse, *state = aten._scaled_dot_product_efficient_attention(
            q, k, v, None, True, self.dropout, False, scale=self.scale
        )
        return out, lse.narrow(-1, 0, q.shape[-2]), state

    def backward(
        self, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, state: Any
    ) -> Triple:
        """Gradients of q, k and v; dropout comes from `state`, not from the generators."""
        padded = F.pad(lse, (0, -lse.shape[-1] % self.BLOCK), value=torch.inf)
        return aten._scaled_dot_product_efficient_attention_backward(
            gradient, q, k, v, None, out, padded, *state, self.dropout, [True, True, True, False], scale=self.scale
        )[:3]


@dataclass(frozen=True)
class Plain:
    """Matmuls, with the softmax in float32 or wider; the dropout mask is not kept but drawn again."""

    scale: float
    dropout: float

    @property
    def draws(self) -> tuple[bool, bool]:
        """Both, if there is dropout."""
        return self.dropout > 0, self.dropout > 0

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, None]:
        """Output and log-sum-exp; there is no state, since backward draws the mask again."""
        scores = self._scores(q, k)
        lse = scores.logsumexp(-1)
        weights = (scores - lse.unsqueeze(-1)).exp_() * self._mask(scores)
        return weights.to(v.dtype) @ v, lse, None

    def backward(
        self, gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, state: None
    ) -> Triple:
        """Gradients of q, k and v; the generators must be in the state that they had before forward."""
        assert state is None, "the mask is drawn again"
        weights = (self._scores(q, k) - lse.unsqueeze(-1)).exp_()
        mask = self._mask(weights)
        of_v = (weights * mask).to(gradient.dtype).transpose(-1, -2) @ gradient
        of_weights = (gradient @ v.transpose(-1, -2)).to(weights.dtype) * mask
        shared = (gradient * out).to(weights.dtype).sum(-1, keepdim=True)
        of_scores = (weights * (of_weights - shared) * self.scale).to(q.dtype)
        return of_scores @ k, of_scores.transpose(-1, -2) @ q, of_v

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2)
        return scores.to(torch.promote_types(scores.dtype, torch.float32)).mul_(self.scale)

    def _mask(self, scores: Tensor) -> Tensor | float:
        """1 / (1 - p) where a weight stays, 0 where it is dropped."""
        return torch.empty_like(scores).bernoulli_(1 - self.dropout).div_(1 - self.dropout) if self.dropout else 1.0
