"""Attention mass: what each window gets is the sum of Hugging Face's own weights over it, without a weight stored."""

from __future__ import annotations

import copy

import pytest
import torch

from cached_ds import attach
from cached_ds.decoder.attention_mass import WeighedDocuments
from cached_ds.windows.cut import find_runs, whole_rows
from helpers import tiny
from helpers.compare import EXACT
from helpers.seen_shapes import SeenShapes

LENGTH, TARGET = 75, 9


def read(family, *, dtype=torch.float64, **fields):
    """An attached model that minds where it looks, the same one as it was, H, and the positions of its windows."""
    model = tiny.make_model(family, dtype=dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("model.decoder", "decoder")) and name.endswith(("q_proj.weight", "q.weight")):
                parameter.mul_(10)
    reference = copy.deepcopy(model)
    encoder = attach(model, window=tiny.WINDOW, **tiny.recipe(family), **fields).get_encoder()
    with torch.no_grad():
        states = encoder(input_ids=tiny.make_batch(family, (LENGTH,))["input_ids"]).last_hidden_state
    windows = encoder._cached_ds.call.windows
    return model, reference, states, [range(w.start, w.start + w.last - w.first) for w in windows]


@torch.no_grad()
def weigh(model, states, windows, *, mask=None, tile=None):
    """The masses [T, N], and the logits of the same pass."""
    runs = whole_rows(1, LENGTH) if mask is None else find_runs(mask)
    documents = WeighedDocuments(states, runs, windows=windows, tile=tile)
    logits = model(encoder_outputs=outputs(model, documents), decoder_input_ids=summary(), use_cache=False).logits
    return documents.masses(), logits


def outputs(model, documents):
    return model.get_encoder()._cached_ds.family.output(last_hidden_state=documents.placeholder())


def summary():
    return torch.randint(6, tiny.VOCABULARY, (1, TARGET), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def expected(reference, states, windows, *, mask=None):
    """The weights of Hugging Face's own decoder on the same states, summed over the windows; and its logits."""
    reference.set_attn_implementation("eager")
    found = reference(
        encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=summary(), output_attentions=True,
        use_cache=False,
    )  # fmt: skip
    weights = torch.stack(found.cross_attentions).mean(dim=(0, 2))[0]  # layers [1, H, T, L] become [T, L]
    return torch.stack([weights[:, w.start : w.stop].sum(1) for w in windows], dim=1), found.logits


@pytest.mark.parametrize("tile", [None, 5], ids=["a tile a window", "tiles of 5"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_masses_are_those_of_the_weights(family, tile):
    model, reference, states, windows = read(family)
    masses, logits = weigh(model, states, windows, tile=tile)
    true_masses, true_logits = expected(reference, states, windows)
    assert masses.shape == (TARGET, len(windows)) and len(windows) > 4
    assert masses.std(dim=1).min() > 1e-3, "a model that looks everywhere alike would show nothing"
    torch.testing.assert_close(masses, true_masses, rtol=0, atol=1e-10)
    torch.testing.assert_close(logits, true_logits, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("offload", ["cpu", "disk"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_masses_of_states_that_live_elsewhere(family, offload, tmp_path):
    model, reference, states, windows = read(family, offload=offload, offload_folder=str(tmp_path))
    masses, _ = weigh(model, states, windows, tile=5)
    torch.testing.assert_close(masses, expected(reference, states, windows)[0], rtol=0, atol=1e-10)


def test_a_hidden_window_has_no_mass():
    model, reference, states, windows = read("bart")
    mask = torch.ones(1, LENGTH, dtype=torch.long)
    mask[:, windows[2].start : windows[2].stop] = mask[:, windows[3].start + 1] = 0
    masses, _ = weigh(model, states, windows, mask=mask, tile=5)
    assert not masses[:, 2].any() and masses[:, 3].all()
    torch.testing.assert_close(masses, expected(reference, states, windows, mask=mask)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=["fp64", "fp32"])
@pytest.mark.parametrize("schedule", ["window", "layer"])
def test_masses_sum_to_one(dtype, most, schedule):
    model, _, states, windows = read("bart", dtype=dtype, schedule=schedule)
    masses, _ = weigh(model, states, windows)
    assert masses.dtype == dtype and (masses.sum(1) - 1).abs().max() < most


def test_no_weight_is_kept():
    model, reference, states, windows = read("bart")
    with SeenShapes() as ours:
        weigh(model, states, windows, tile=5)
    with SeenShapes() as theirs:
        expected(reference, states, windows)
    assert not ours.holding(TARGET, LENGTH)
    assert theirs.holding(TARGET, LENGTH), "the test sees nothing"


def test_windows_that_overlap_keep_adjacent_states():
    _, _, _, windows = read("bart", overlap=2)
    assert [w.start for w in windows] == [0, *(w.stop for w in windows[:-1])] and windows[-1].stop == LENGTH
