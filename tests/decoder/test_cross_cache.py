"""Cross cache: one copy of the documents for all beams, whatever else `generate` is asked for."""

from __future__ import annotations

import copy
import gc
import itertools
import weakref

import peft
import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache

from cached_ds import attach
from cached_ds.decoder import cross_attention, document_states
from cached_ds.decoder.cross_cache import DocumentCache, cache_in
from helpers import tiny

CACHES = pytest.mark.parametrize("cross_cache", ["kv", "none"])
BEAMS = {"num_beams": 4, "max_new_tokens": 8, "min_new_tokens": 4, "do_sample": False}
ROWS = 2  # documents


def generated(model, *, windows=3, **options):
    """What a model writes about two documents of different lengths; HF's own model reads the attached one's states."""
    batch = tiny.make_batch("bart", (windows * tiny.WINDOW, 30))
    return model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **BEAMS | options)


def attached(model, **config):
    """An attached copy that writes whatever a test compares."""
    return attach(copy.deepcopy(model), window=tiny.WINDOW, **config)


@pytest.fixture
def model():
    """A model that minds what the document says: small random weights would write the same of any."""
    model = tiny.make_model("bart", dtype=torch.float64).eval()
    with torch.no_grad():
        for layer in model.get_decoder().layers:
            for name in ("q_proj", "v_proj"):
                getattr(layer.encoder_attn, name).weight.mul_(30)
    return model


@pytest.fixture
def expected(model):
    """Beams by Hugging Face's own cross-attention and cache, from the same states."""
    found = generated(attached(model, stream_cross_attention=False))
    assert not torch.equal(*found)
    return found


def caches_seen(model):
    """The caches that the decoder is called with from here on."""
    seen = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(cache_in(kwargs)), with_kwargs=True, prepend=True
    )
    return seen, hook


@CACHES
def test_beams_share_documents_and_cache(model, expected, cross_cache):
    ours = attached(model, cross_cache=cross_cache)
    seen, _ = caches_seen(ours)
    assert torch.equal(generated(ours), expected)
    cache = seen[-1]
    assert isinstance(cache, DocumentCache) and cache.documents.shape[0] == ROWS
    rows = ROWS * cache.documents.shape[1]
    sizes = {tuple(kept.rows.shape) for kept in cache.documents.kept.values()}
    assert sizes == ({(rows, 2 * model.config.d_model)} if cross_cache == "kv" else set())
    assert len(cache.documents.kept) == (model.config.decoder_layers if cross_cache == "kv" else 0)
    assert all(cache.cross_attention_cache.get_seq_length(layer) == 0 for layer in range(model.config.decoder_layers))


def test_beams_of_another_document_are_noticed(model, expected, monkeypatch):
    """Beams by turns instead of document by document, as in NVIDIA/TensorRT-LLM#15444."""

    def by_turns(q, documents):
        return q.unflatten(0, (-1, documents)).permute(1, 2, 0, 3, 4).flatten(2, 3)

    monkeypatch.setattr(cross_attention, "_folded", by_turns)
    assert not torch.equal(generated(attached(model)), expected)


@CACHES
@pytest.mark.parametrize("offload", ["cpu", "disk"])
@pytest.mark.parametrize("tile", [None, 7])
def test_offloaded_and_in_tiles(model, expected, cross_cache, offload, tile):
    assert torch.equal(generated(attached(model, cross_cache=cross_cache, offload=offload, tile=tile)), expected)


def test_keys_and_values_are_read_by_the_tiles_that_they_were_made_by(model, expected, monkeypatch):
    """A long prompt may ask for other tiles than the single tokens after it."""
    sizes = itertools.cycle([7, 5, 11])
    monkeypatch.setattr(document_states, "tile_size", lambda *_: next(sizes))
    assert torch.equal(generated(attached(model)), expected)


@CACHES
@pytest.mark.parametrize(
    "options",
    [
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"output_attentions": True, "return_dict_in_generate": True},
        {"num_beams": 1, "prompt_lookup_num_tokens": 3},
        {"num_beams": 1, "num_return_sequences": 1, "decoder_input_ids": torch.tensor([[2, 5, 9], [2, 7, 7]])},
        {"num_beams": 3, "num_return_sequences": 3},
        {"num_beams": 1, "do_sample": True, "num_return_sequences": 4},
    ],
    ids=["static", "no cache", "attentions", "prompt lookup", "prompt", "all beams", "samples"],
)
def test_other_ways_to_generate(model, cross_cache, options):
    one_document = "prompt_lookup_num_tokens" in options
    found = []
    for each in (attached(model, cross_cache=cross_cache), attached(model, stream_cross_attention=False)):
        torch.manual_seed(3)
        if one_document:
            ids = tiny.make_batch("bart", (60,))["input_ids"]
            found.append(each.generate(input_ids=ids, **BEAMS | options))
        else:
            found.append(generated(each, **options))
    ours, theirs = (getattr(one, "sequences", one) for one in found)
    assert torch.equal(ours, theirs)
    if "output_attentions" in options:
        torch.testing.assert_close(found[0].cross_attentions, found[1].cross_attentions, rtol=1e-10, atol=1e-12)


@CACHES
def test_assisted_by_a_smaller_attached_model(model, cross_cache):
    ids = tiny.make_batch("bart", (60,))["input_ids"]
    options = BEAMS | {"num_beams": 1}
    helper = attached(tiny.make_model("bart", dtype=torch.float64, seed=3).eval(), cross_cache=cross_cache)
    ours = attached(model, cross_cache=cross_cache)
    found = ours.generate(input_ids=ids, assistant_model=helper, **options)
    assert torch.equal(found, ours.generate(input_ids=ids, **options))


@CACHES
def test_adapters_in_the_projections(model, cross_cache):
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["k_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    options = {"offload": "cpu", "cross_cache": cross_cache}
    theirs = generated(attached(adapted, stream_cross_attention=False))
    assert torch.equal(generated(attached(adapted, **options)), theirs)


def test_a_cache_of_ones_own_is_hugging_faces(model, expected):
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    assert torch.equal(generated(attached(model), past_key_values=cache), expected)
    assert cache.cross_attention_cache.get_seq_length() > 0


@CACHES
def test_nothing_outlives_generate(model, cross_cache):
    ours = attached(model, cross_cache=cross_cache)
    seen, hook = caches_seen(ours)
    gc.disable()
    try:
        generated(ours)
        alive = weakref.ref(seen[-1].documents)
        hook.remove()
        seen.clear()
        assert alive() is None
    finally:
        gc.enable()
