"""Offload: buffers in host memory and in mapped files hold what is stored, leave nothing behind."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache

from cached_ds import attach
from cached_ds.decoder.cross_attention import _readable
from cached_ds.replay import offload
from cached_ds.replay.offload import Accumulator, Conveyor, empty, empty_like, zero_gaps_
from cached_ds.settings.config import OFFLOADS
from helpers import oracle, tiny
from helpers.compare import EXACT, gradients, worst_error

CPU = torch.device("cpu")
MIB = 2**20


def buffer(offload, rows=100, width=8, folder=None):
    return empty((rows, width), dtype=torch.float32, device=CPU, offload=offload, folder=folder)


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("offload", OFFLOADS)
def test_what_is_stored_and_added_is_loaded(offload):
    values, conveyor, found = torch.randn(100, 8), Conveyor(CPU), buffer(offload)
    spans = [slice(60, 100), slice(0, 1), slice(1, 60)]
    for span in spans:
        conveyor.store(values[span], found, span)
    more = [slice(58, 63), slice(0, 2)]
    accumulator = Accumulator(conveyor, found, more, is_new=False)
    for span in more:
        accumulator.add(torch.ones(span.stop - span.start, 8))
        values[span] += 1
    conveyor.finish()
    assert all(torch.equal(part, values[span]) for part, span in zip(conveyor.load(found, spans), spans, strict=True))
    assert torch.equal(found, values)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_second_buffer_is_in_the_same_place(offload, tmp_path):
    first = buffer(offload, folder=str(tmp_path))
    first.fill_(3)
    second = empty_like(first)
    names = [each.untyped_storage().filename for each in (first, second)]
    assert second.shape == first.shape and second.data_ptr() != first.data_ptr()
    assert all((name is not None and name.startswith(str(tmp_path))) == (offload == "disk") for name in names)
    assert names[0] != names[1] or offload != "disk"


@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_new_buffer_is_written_and_its_gaps_are_zero(offload):
    found, conveyor = buffer(offload).fill_(3), Conveyor(CPU)
    spans = [slice(60, 90), slice(1, 60)]
    zero_gaps_(found, spans)
    accumulator = Accumulator(conveyor, found, spans, is_new=True)
    for span in spans:
        accumulator.add(torch.ones(span.stop - span.start, 8))
    assert torch.equal(found[1:90], torch.ones(89, 8)) and not found[0].any() and not found[90:].any()


def test_a_mapped_file_has_no_name_left(tmp_path):
    mapped = buffer("disk", folder=str(tmp_path))
    mapped.fill_(1)
    assert list(tmp_path.iterdir()) == []
    assert mapped.sum() == mapped.numel()


def test_resident_memory_does_not_grow_with_a_mapped_file():
    size, step, conveyor = 128 * MIB // 4, MIB // 4, Conveyor(CPU)
    mapped = empty((size,), dtype=torch.float32, device=CPU, offload="disk")
    spans = [slice(begin, begin + step) for begin in range(0, size, step)]
    before = resident()
    for number, span in enumerate(spans):
        conveyor.store(torch.full((step,), float(number)), mapped, span)
    total = sum(float(part[0]) for part in conveyor.load(mapped, spans))
    assert total == sum(range(len(spans)))
    assert resident() - before < 32 * MIB, "a quarter of the file; the allocator may keep some"


def test_a_full_disk_is_an_error_before_any_work(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(offload.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        buffer("disk")


@pytest.mark.parametrize("recompute", ["all", 3])
@pytest.mark.parametrize("offload", ["cpu", "disk"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_gradients_with_offload_are_those_of_the_full_graph(family, offload, recompute, tmp_path):
    model = tiny.make_model(family, dropout=0.1, dtype=torch.float64)
    reference, batch = copy.deepcopy(model), tiny.make_batch(family, tiny.LENGTHS)
    attach(model, window=tiny.WINDOW, offload=offload, offload_folder=str(tmp_path), recompute=recompute)
    torch.manual_seed(7)
    output = model(**batch)
    filename = output.encoder_last_hidden_state.untyped_storage().filename
    assert (filename is not None) == (offload == "disk")
    output.loss.backward()
    torch.manual_seed(7)
    oracle.loss(reference, batch, window=tiny.WINDOW, random=True).backward()
    assert worst_error(gradients(model), gradients(reference)) < EXACT
    assert list(tmp_path.iterdir()) == []


def test_a_user_may_read_offloaded_states_and_generate():
    batch = tiny.make_batch("bart", (75, 30))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    models = [
        attach(tiny.make_model("bart").eval(), window=tiny.WINDOW, offload=offload) for offload in ("none", "disk")
    ]
    plain, mapped = (model.get_encoder()(**inputs).last_hidden_state for model in models)
    assert torch.equal(plain, mapped)
    texts = [model.generate(**inputs, max_new_tokens=4) for model in models]
    assert torch.equal(*texts)


def test_offloaded_states_come_to_the_device_for_calls_that_are_hugging_faces():
    """`generate` on a GPU: Hugging Face's projections were handed the host's buffer."""
    decoder, states = torch.nn.Linear(2, 2, device="meta"), torch.ones(1, 5, 2)
    new, filled = (EncoderDecoderCache(DynamicCache(), DynamicCache()) for _ in range(2))
    filled.is_updated[0] = True
    assert _readable(states, decoder, None).device.type == _readable(states, decoder, new).device.type == "meta"
    assert _readable(states, decoder, filled) is states, "not again for every token"


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["cpu", "disk"])
def test_generation_with_offloaded_states_on_a_gpu(offload):
    model, batch = tiny.make_model("bart").eval().cuda(), tiny.make_batch("bart", (75, 30))
    inputs = {name: batch[name].cuda() for name in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "num_beams": 2}
    expected = attach(copy.deepcopy(model), window=tiny.WINDOW).generate(**inputs, **options)
    assert torch.equal(attach(model, window=tiny.WINDOW, offload=offload).generate(**inputs, **options), expected)
