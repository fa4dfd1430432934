"""Float64 for transformers before 5.15, so that its models can be compared exactly.

There T5 takes its softmax in float32 whatever the model's dtype is. In float32, in which it is used, nothing changes.
"""

from __future__ import annotations

import torch

from cached_ds.settings.versions import is_before

to_float = torch.Tensor.float


def allow() -> None:
    """Let Hugging Face's models compute in float64 in this process."""
    if is_before("transformers", "5.15"):
        torch.Tensor.float = _unless_wider


def _unless_wider(tensor, *args, **kwargs):
    return tensor if tensor.dtype == torch.float64 else to_float(tensor, *args, **kwargs)
