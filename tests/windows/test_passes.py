"""Passes: what the encoder is given, on its device."""

from __future__ import annotations

import pytest
import torch

from cached_ds import CachedConfig
from cached_ds.models.families import family_of
from cached_ds.windows.passes import Batch, Cutter
from helpers import tiny

CPU, META = torch.device("cpu"), torch.device("meta")


def passes_of(family, lengths, *, implementation="sdpa", device=CPU, windows_per_pass=2):
    model = tiny.make_model(family)
    model.config._attn_implementation = implementation
    batch = tiny.make_batch(family, lengths)
    on_host = Batch.on_host(batch["input_ids"], batch["attention_mask"], None, None, None)
    config = CachedConfig(window=tiny.WINDOW)
    cutter = Cutter(config, family_of(model.config), model.config)
    return cutter.passes(cutter.windows(on_host), on_host, device, windows_per_pass=windows_per_pass)


@pytest.mark.parametrize(
    ("family", "implementation", "dims"), [("bart", "sdpa", 4), ("bart", "eager", 2), ("led", "sdpa", 2)]
)
def test_passes_of_unequal_windows_have_a_mask_that_nobody_reads(family, implementation, dims):
    """Of a mask [N, w] Hugging Face asks the device whether it is all ones; one [N, 1, 1, w] it takes as it is."""
    (each,) = passes_of(family, (tiny.WINDOW, tiny.WINDOW - 3), implementation=implementation)
    mask = each.inputs["attention_mask"]
    assert mask.dim() == dims and mask.sum() == 2 * tiny.WINDOW - 3
    assert set(each.inputs) - {"global_attention_mask"} == {"input_ids", "attention_mask"}


def test_all_tensors_of_all_passes_are_copied_together(monkeypatch):
    copies = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: copies.append(tensor) or tensor)
    here, there = (passes_of("bart", tiny.LENGTHS, device=device) for device in (CPU, META))
    assert len(here) == len(there) > 2 and len(copies) == 1
    for one, other in zip(here, there, strict=True):
        assert one.spans == other.spans and one.slots.shape == other.slots.shape and other.slots.device == META
        assert {n: v.shape for n, v in one.inputs.items()} == {n: v.shape for n, v in other.inputs.items()}
    tokens = torch.cat([tensor for each in here for tensor in (each.slots, each.inputs["input_ids"].flatten())])
    assert set(copies[0].tolist()) >= set(tokens.tolist())
