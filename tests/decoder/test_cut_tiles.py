"""Cut tiles: the parts of a tile, put together, are the tile, with the same weights dropped."""

from __future__ import annotations

import pytest
import torch

from cached_ds.decoder.cut_tiles import Part, PartKernel
from cached_ds.decoder.tile_kernels import FlashCpu, Plain, merge_
from helpers.compare import EXACT

PARTS = (Part(0, 9), Part(4, 3), Part(10, 0))  # of 13 columns


def drawn(kernel, method, *inputs):
    torch.manual_seed(5)
    return getattr(kernel, method)(*inputs)


@pytest.mark.parametrize("kernel", [Plain(0.3, 0.2), Plain(0.3, 0.0), FlashCpu(0.3)], ids=str)
def test_parts_of_a_tile_are_the_tile(kernel):
    torch.manual_seed(0)
    q, k, v, gradient = (torch.randn(1, 2, count, 8, dtype=torch.float64) for count in (6, 13, 13, 6))
    out, lse, _ = drawn(kernel, "forward", q, k, v)
    whole = drawn(kernel, "backward", gradient, q, k, v, out, lse, None)
    found, total = torch.zeros_like(out), torch.full_like(lse, -torch.inf)
    shares = []
    for part in PARTS:
        inputs = q, part.own(k), part.own(v)
        cut = PartKernel(kernel, part)
        merge_(found, total, *drawn(cut, "forward", *inputs)[:2])
        shares.append(drawn(cut, "backward", gradient, *inputs, out, lse, None))
    torch.testing.assert_close((found, total), (out, lse), rtol=EXACT, atol=EXACT)
    of_q, of_k, of_v = zip(*shares, strict=True)
    together = sum(of_q), torch.cat(of_k, dim=2), torch.cat(of_v, dim=2)
    torch.testing.assert_close(together, whole, rtol=EXACT, atol=EXACT)


def test_a_part_is_found_again_in_the_whole():
    rows = torch.arange(6.0).view(1, 3, 2)
    assert torch.equal(Part(2, 4).own(Part(2, 4).widened(rows)), rows)
    assert Part(2, 4).widened(rows).shape == (1, 9, 2)
