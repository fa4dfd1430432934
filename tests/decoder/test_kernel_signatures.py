"""The kernels of a GPU, by fake tensors: what their operators return and take is what the code unpacks and hands on.

A fake tensor of a CUDA device has a shape, a type and a device, and no numbers, so this needs no CUDA build of torch.
The kernels' numbers are checked on a GPU (tests/parity/test_gpu.py).
"""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from cached_ds.decoder import tile_kernels
from cached_ds.decoder.cut_tiles import Part, PartKernel
from cached_ds.decoder.tile_kernels import EfficientCuda, FlashCuda, Plain
from cached_ds.replay.sums import sum_dtype

HEADS, TARGETS, SOURCES = 2, 7, 50
HALF = (torch.bfloat16, torch.float16)
KERNELS = {  # a kernel that runs on a GPU -> the types and head widths that it is chosen for
    FlashCuda: (HALF, (8, 64, 128)),
    EfficientCuda: ((*HALF, torch.float32), (12, 64)),
    Plain: ((*HALF, torch.float32, torch.float64), (12, 64)),
}
CASES = [(kind, dtype, width) for kind, (dtypes, widths) in KERNELS.items() for dtype in dtypes for width in widths]


def described(tensor):
    return tensor.shape, tensor.dtype, tensor.device.type


def check_both_ways(kernel, dtype, width):
    """Forward and backward of a tile give what their inputs ask for."""
    with FakeTensorMode():
        q = torch.empty(1, HEADS, TARGETS, width, device="cuda", dtype=dtype)
        k, v = torch.empty(2, 1, HEADS, SOURCES, width, device="cuda", dtype=dtype)
        out, lse, state = kernel.forward(q, k, v)
        assert described(out) == described(q)
        assert described(lse) == ((1, HEADS, TARGETS), sum_dtype(q), "cuda")
        merged = torch.empty_like(q), torch.empty_like(lse)  # those of all tiles together
        found = kernel.backward(torch.empty_like(q), q, k, v, *merged, state)
    assert [described(each) for each in found] == [described(each) for each in (q, k, v)]


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "dtype", "width"), CASES)
def test_a_tile_goes_through_forward_and_backward(kind, dtype, width, dropout):
    check_both_ways(kind(width**-0.5, dropout), dtype, width)


@pytest.mark.parametrize(("kind", "dtype", "width"), CASES)
def test_a_part_of_a_tile_goes_through_forward_and_backward(kind, dtype, width):
    check_both_ways(PartKernel(kind(width**-0.5, 0.1), Part(3, 6)), dtype, width)


def test_heads_that_are_views_of_a_projection_are_taken_as_they_are():
    """q, k and v arrive as transposes of [1, S, H, D], not as contiguous tensors."""
    with FakeTensorMode():
        q, k, v = (
            torch.empty(1, size, HEADS * 64, device="cuda", dtype=torch.bfloat16).unflatten(-1, (HEADS, -1))
            for size in (TARGETS, SOURCES, SOURCES)
        )
        q, k, v = (each.transpose(1, 2) for each in (q, k, v))
        kernel = FlashCuda(0.125, 0.1)
        out, lse, state = kernel.forward(q, k, v)
        found = kernel.backward(torch.empty_like(q), q, k, v, out, lse, state)
    assert [described(each) for each in found] == [described(each) for each in (q, k, v)]


def test_every_kernel_of_a_gpu_is_here():
    """A new class of tile_kernels.py is one more entry of KERNELS."""
    own = {kind for kind in vars(tile_kernels).values() if getattr(kind, "__module__", "") == tile_kernels.__name__}
    kernels = {kind for kind in own if hasattr(kind, "backward")}
    assert kernels - {tile_kernels.Kernel, tile_kernels.FlashCpu} == set(KERNELS)
