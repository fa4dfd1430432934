"""Each known defect of the published step gives wrong gradients; ours, on the same documents, gives the right ones."""

from __future__ import annotations

import copy

import pytest
import torch

from cached_ds import attach
from cached_ds.replay.rng import ReplayRng
from helpers import engines, oracle, published_step, tiny
from helpers.compare import EXACT, gradient_error, gradients, worst_error

LENGTHS = (75,)
WRONG = 0.05  # relative error of the worst gradient; design 7 reports 0.22 to 1.0


def make(dropout=0.0):
    return tiny.make_model("bart", dropout=dropout, dtype=torch.float64)


def micro_batches(count=1, lengths=LENGTHS):
    return [tiny.make_batch("bart", lengths, seed=number) for number in range(count)]


def full_graph(batches, *, dropout=0.0):
    """Gradients of the mean loss over micro-batches."""
    model = make(dropout)
    torch.manual_seed(7)
    for batch in batches:
        (oracle.loss(model, batch, window=tiny.WINDOW, random=dropout > 0) / len(batches)).backward()
    return gradients(model)


def ours(batches, *, dropout=0.0):
    model = attach(make(dropout), window=tiny.WINDOW)
    torch.manual_seed(7)
    for batch in batches:
        (model(**batch).loss / len(batches)).backward()
    return gradients(model)


def published(batches, *, dropout=0.0, fault=None):
    model = make(dropout)
    torch.manual_seed(7)
    published_step.step(model, batches, window=tiny.WINDOW, random=dropout > 0, fault=fault)
    return gradients(model)


def check(fault, batches, *, dropout=0.0, names=""):
    """Ours is exact, the published order without the fault too, and with it wrong (in the gradients of `names`)."""
    expected = full_graph(batches, dropout=dropout)
    assert worst_error(ours(batches, dropout=dropout), expected) < EXACT
    assert worst_error(published(batches, dropout=dropout), expected) < EXACT
    found = published(batches, dropout=dropout, fault=fault)
    chosen = [name for name in expected if names in name]
    error = worst_error({name: found[name] for name in chosen}, {name: expected[name] for name in chosen})
    assert error > WRONG, f"{fault}: {error}"


def test_dropout_differs_between_the_passes():
    check("other-dropout", micro_batches(), dropout=0.1)


def test_the_last_state_of_a_window():
    check("last-state", micro_batches())


def test_the_tied_embeddings_gradient_from_the_decoder():
    check("zeroed", micro_batches(), names="shared")


def test_accumulation_keeps_every_micro_batch():
    check("zeroed", micro_batches(3), names="encoder.layers")


@pytest.mark.parametrize("windows", [2, 3])
def test_documents_of_exactly_k_windows(windows):
    check("ragged-window", micro_batches(lengths=(2 + windows * (tiny.WINDOW - 2),)))


def test_a_ragged_window_is_harmless_elsewhere():
    batches = micro_batches(lengths=(50,))
    assert worst_error(published(batches, fault="ragged-window"), full_graph(batches)) < EXACT


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_autocast(family):
    """Half precision by autocast: as far from float32 as full backpropagation under autocast is."""
    batch, model = tiny.make_batch(family, (75, 30)), tiny.make_model(family)
    exact, full = copy.deepcopy(model), copy.deepcopy(model)
    oracle.loss(exact, batch, window=tiny.WINDOW).backward()
    with torch.autocast("cpu", torch.bfloat16):
        oracle.loss(full, batch, window=tiny.WINDOW).backward()
        loss = attach(model, window=tiny.WINDOW, **tiny.recipe(family))(**batch).loss
    loss.backward()
    flat = [torch.cat([g.flatten() for g in gradients(each).values()]) for each in (exact, full, model)]
    errors = [((found - flat[0]).norm() / flat[0].norm()).item() for found in flat[1:]]
    # bf16 rounds by 2**-9, some 100 times on the way: 2%, and more through T5's attention scores, which are not scaled.
    assert 1e-3 < errors[0] < 0.1
    # Ours rounds as often, in another order, and adds the windows' gradients in float32: half as much again at most.
    assert 1e-3 < errors[1] < 1.5 * errors[0]


def test_batches_of_documents_and_several_windows_at_a_time():
    model, batch = make(dropout=0.1), tiny.make_batch("bart", tiny.LENGTHS)
    assert gradient_error(model, batch, random=True, windows_per_pass=4) < EXACT
    counters = model.get_encoder()._cached_ds.counters
    assert counters.windows_read == 6 + 2 + 1
    assert counters.encoder_forwards == 2 * 3 - 1  # the graph of one pass is kept


def test_beams_do_not_encode_again():
    """Each document is encoded once, whatever the beams. That `generate` expands its states per beam stays as it is."""
    model, batch = attach(make().eval(), window=tiny.WINDOW), tiny.make_batch("bart", LENGTHS)
    model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], num_beams=4, max_new_tokens=3)
    assert model.get_encoder()._cached_ds.counters.encoder_forwards == 6


def test_saved_weights_are_safetensors(tmp_path):
    attach(make(), window=tiny.WINDOW).save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_canary_dropout_is_on():
    model, (batch,) = attach(make(dropout=0.1), window=tiny.WINDOW), micro_batches()
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(model(**batch).loss.item())
    assert losses[0] == losses[1] != losses[2]


def without_replay(patch):
    """Break the replay of random streams: a pass draws from wherever the generator stands."""
    patch.setattr(ReplayRng, "_seed_generators", lambda *_: torch.default_generator.manual_seed(torch.seed()))


def test_canary_parity_fails_without_replayed_streams(monkeypatch):
    without_replay(monkeypatch)
    batches = micro_batches()
    assert worst_error(ours(batches, dropout=0.1), full_graph(batches, dropout=0.1)) > WRONG


def broken_parity():
    with pytest.MonkeyPatch.context() as patch:
        without_replay(patch)
        return engines.parity("bart", "ddp", 0.1, steps=2, accumulation=2, windows=(1, 7))


def test_canary_engine_parity_fails_without_replayed_streams(ranks):
    assert min(ranks.run(broken_parity)) > 1e-3, "100 times what test_parity_engines.py tolerates"
