"""Float64 for transformers before 5.15, so that its models can be compared exactly.

There T5 takes its softmax in float32 whatever the model's dtype is, and before 5.2 LED cannot make its causal mask in
float64 at all. In float32, in which they are used, nothing changes.
"""

from __future__ import annotations

import functools

import torch

from cached_ds.settings.versions import is_before

to_float = torch.Tensor.float


def allow() -> None:
    """Let Hugging Face's models compute in float64 in this process."""
    if is_before("transformers", "5.15"):
        torch.Tensor.float = _unless_wider
    if is_before("transformers", "5.2"):
        from transformers.modeling_attn_mask_utils import AttentionMaskConverter

        make = AttentionMaskConverter._make_causal_mask
        AttentionMaskConverter._make_causal_mask = staticmethod(functools.partial(_mask, make))


def _unless_wider(tensor, *args, **kwargs):
    return tensor if tensor.dtype == torch.float64 else to_float(tensor, *args, **kwargs)


def _mask(make, shape, dtype, device, *args, **kwargs):
    return make(shape, torch.float32, device, *args, **kwargs).to(dtype)
