"""Device sizes: how much work goes to a device at one time, where the config leaves it open.

A CPU is as fast with small pieces, which take less memory. A GPU computes a small piece faster than the host can ask
for the next, so it gets pieces that keep it busy for longer than that. The numbers depend on the kind of device only,
and not on timing: the pieces decide which random stream drops what, and a run must drop the same when it is repeated.
"""

from __future__ import annotations

import torch

GPU_TOKENS_PER_PASS = 2**15


def is_cpu(device: torch.device) -> bool:
    """Whether host and device are one."""
    return device.type == "cpu"


def tile(device: torch.device) -> int:
    """Source tokens whose keys and values exist at one time: of BART-large in bf16, 512 MiB with gradients on a GPU."""
    return 2**10 if is_cpu(device) else 2**16


def windows_per_pass(device: torch.device, window: int) -> int:
    """Windows of `window` tokens that go through the encoder together."""
    return 1 if is_cpu(device) else max(1, GPU_TOKENS_PER_PASS // window)


def logits_per_chunk(device: torch.device) -> int:
    """Logits of the loss that exist at one time, in float32: 32 MiB on a CPU, 256 MiB on a GPU."""
    return 2**23 if is_cpu(device) else 2**26
