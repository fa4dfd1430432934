"""Merging: one attention of what each rank of a document group has found in its share.

Attention to a part of a document is an output and the log-sum-exp of its scores, for every query. Those of several
parts merge exactly, as those of tiles do (decoder/tile_kernels.py): with l = log sum_r exp(l_r), the output is
sum_r exp(l_r - l) o_r. A rank without a token of a document has l_r = -inf, and its weight is 0.

One collective: all ranks gather the packed pairs [o_r, l_r] and merge them by themselves, in the same order, so that
their results are equal bit by bit, as a decoder in lockstep needs. An all-reduce of weighted outputs would want the
greatest l_r first, in a collective of its own. A rank receives (P - 1) B T (D + H) numbers; ring all-reduces would
take 2 (P - 1) / P of B T (D + 2 H): the same at P = 2, and less only for large groups, where two latencies weigh more.

Backward needs no merging but of dq, a sum: a tile's gradients follow from the output and log-sum-exp of all tiles.

Factor. Every rank of the group computes the same loss, and the engine averages gradients over all ranks. Those of the
decoder are equal on all ranks of a group, and their average is one of them. Those of keys, of values and of H, and so
of all that lies before, are each rank's part of a sum, which an average would divide by P: `scaled` multiplies by P.

Shapes: P ranks, B documents, T target length, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cached_ds.document_parallel.mesh import DocumentGroup


def merged(group: DocumentGroup, output: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Output [B, H, T, D / H] and log-sum-exp [B, H, T] of all ranks, from those of this one's share.

    Every query must have a token on one of the ranks.
    """
    found = group.gather(torch.cat([output, lse.unsqueeze(-1)], dim=-1))
    outputs, sums = found[..., :-1], found[..., -1]
    total = sums.logsumexp(0)
    return (outputs * (sums - total).exp().unsqueeze(-1)).sum(0), total


def scaled(group: DocumentGroup, of_projections: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of keys and values, so that the average over all ranks is the sum over the group."""
    return [gradient * group.size for gradient in of_projections]
