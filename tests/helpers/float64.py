"""Float64 for transformers before 5.15, so that its models can be compared exactly.

There T5 takes its softmax in float32 whatever the model's dtype is, and before 5.2 LED cannot make its causal mask in
float64 at all. In float32, in which they are used, nothing changes.
"""

from __future__ import annotations

import torch
from transformers import modeling_attn_mask_utils

from cached_ds.settings.versions import is_before

to_float = torch.Tensor.float
make_causal_mask = modeling_attn_mask_utils.AttentionMaskConverter._make_causal_mask


def allow() -> None:
    """Let Hugging Face's models compute in float64 in this process."""
    if is_before("transformers", "5.15"):
        torch.Tensor.float = _unless_wider
    if is_before("transformers", "5.2"):
        modeling_attn_mask_utils.AttentionMaskConverter._make_causal_mask = staticmethod(_mask)


def _unless_wider(tensor, *args, **kwargs):
    return tensor if tensor.dtype == torch.float64 else to_float(tensor, *args, **kwargs)


def _mask(shape, dtype, device, *args, **kwargs):
    return make_causal_mask(shape, torch.float32, device, *args, **kwargs).to(dtype)
