"""The layer schedule: the same numbers as the window schedule, one encoder layer gathered at a time."""

from __future__ import annotations

import collections
import copy
import pickle
import sys

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model

from cached_ds import CachedConfig, attach, detach, fsdp
from helpers import engines, tiny
from helpers.compare import EXACT, gradient_error, gradients, worst_error
from helpers.engines import FP32
from helpers.saved_bytes import SavedBytes

SETTINGS = {
    "default": {},
    "three-per-pass": {"windows_per_pass": 3},
    "keep-2": {"recompute": 2},
    "disk": {"offload": "disk"},
    "everything": {"overlap": 2, "windows_per_pass": 2, "recompute": 1, "offload": "cpu"},
}


def make(family="bart", *, dropout=0.0, **fields):
    model = tiny.make_model(family, dropout=dropout, dtype=torch.float64)
    return attach(model, window=tiny.WINDOW, schedule="layer", **fields)


def step(model, batch):
    torch.manual_seed(7)
    model(**batch).loss.backward()
    return gradients(model)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_gradients_are_those_of_the_full_graph(family, dropout, setting):
    model = tiny.make_model(family, dropout=dropout, dtype=torch.float64)
    batch = tiny.make_batch(family, tiny.LENGTHS)
    assert gradient_error(model, batch, random=dropout > 0, schedule="layer", **SETTINGS[setting]) < EXACT


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_every_attention_of_transformers(family, implementation):
    model = tiny.make_model(family, dtype=torch.float64)
    model.set_attn_implementation(implementation)
    assert gradient_error(model, tiny.make_batch(family, tiny.LENGTHS), schedule="layer") < EXACT


@pytest.mark.parametrize("frozen", ["encoder.layers.0", "encoder.layers.1", "embed", "encoder"])
def test_a_partly_frozen_encoder(frozen):
    model = tiny.make_model("bart", dtype=torch.float64)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    assert gradient_error(model, tiny.make_batch("bart", tiny.LENGTHS), schedule="layer") < EXACT


@pytest.mark.parametrize("frozen", ["block.0", "relative_attention_bias", "block.1", "shared"])
@pytest.mark.parametrize("recompute", ["all", 2])
def test_a_partly_frozen_t5(frozen, recompute):
    """Its first block makes the position bias that the others share, whether or not it learns."""
    model = tiny.make_model("t5", dropout=0.1, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    settings = {"schedule": "layer", "recompute": recompute}
    assert gradient_error(model, tiny.make_batch("t5", tiny.LENGTHS), random=True, **settings) < EXACT


def test_the_position_bias_is_summed_in_float32():
    """600 times the same window: in bfloat16 a sum of equal numbers stands still after 256."""
    batch = tiny.make_batch("t5", (tiny.WINDOW,))
    batch |= {name: batch[name].repeat(1, 600) for name in ("input_ids", "attention_mask")}
    found = []
    for schedule in ("window", "layer"):
        model = tiny.make_model("t5", dtype=torch.bfloat16)
        attach(model, window=tiny.WINDOW, frame_windows=False, schedule=schedule)
        found.append(next(g for name, g in step(model, batch).items() if "encoder" in name and "relative" in name))
    assert (found[0] - found[1]).norm() < 0.05 * found[0].norm()  # bfloat16 has 8 bits


def test_gradient_checkpointing_changes_nothing():
    model = tiny.make_model("t5", dropout=0.1, dtype=torch.float64)
    model.gradient_checkpointing_enable()
    assert gradient_error(model, tiny.make_batch("t5", tiny.LENGTHS), random=True, schedule="layer") < EXACT


def test_lora_learns_the_same_under_both_schedules():
    found, batch = [], tiny.make_batch("bart", tiny.LENGTHS)
    for schedule in ("window", "layer"):
        model = tiny.make_model("bart", dropout=0.1, dtype=torch.float64)
        torch.manual_seed(1)
        lora = LoraConfig(target_modules=["q_proj", "fc1"], lora_dropout=0.1, init_lora_weights=False)
        model = attach(get_peft_model(model, lora), window=tiny.WINDOW, schedule=schedule)
        found.append(step(model, batch))
    assert worst_error(*found) < EXACT


def test_generation_is_that_of_the_window_schedule():
    batch = tiny.make_batch("led", tiny.LENGTHS)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    models = [
        attach(tiny.make_model("led").eval(), window=tiny.WINDOW, schedule=schedule) for schedule in ("window", "layer")
    ]
    texts = [model.generate(**inputs, max_new_tokens=5, min_new_tokens=5) for model in models]
    assert torch.equal(*texts)


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_learn_the_same(again):
    model, batch = make(dropout=0.1), tiny.make_batch("bart", tiny.LENGTHS)
    other = again(model)
    assert worst_error(step(model, batch), step(other, batch)) == 0


def test_detach_leaves_no_trace():
    model, plain = make(), tiny.make_model("bart", dtype=torch.float64)
    detach(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert all(vars(m).keys() == vars(p).keys() for m, p in zip(model.modules(), plain.modules(), strict=True))


def test_a_retained_graph_and_a_flip_of_mode():
    model, batch = make(dropout=0.1), tiny.make_batch("bart", tiny.LENGTHS)
    once = step(copy.deepcopy(model), batch)
    torch.manual_seed(7)
    loss = model(**batch).loss
    loss.backward(retain_graph=True)
    loss.backward(retain_graph=True)
    assert worst_error({name: gradient / 2 for name, gradient in gradients(model).items()}, once) < EXACT
    model.eval()
    with pytest.raises(
        RuntimeError, match=r"model.train\(\) or model.eval\(\) was called between forward and backward"
    ):
        loss.backward()


def test_each_layer_keeps_its_input_only():
    """Per token: one row of D for each layer's input, and what the encoder's two ends keep, whatever the layers."""

    def kept(layers, length):
        config = tiny.make_config("bart", 0.0)
        config.encoder_layers = layers
        model = attach(tiny.MODELS["bart"](config).train(), window=tiny.WINDOW, schedule="layer")
        with SavedBytes() as saved:
            output = model.get_encoder()(input_ids=tiny.make_batch("bart", (length,))["input_ids"])
        assert output.last_hidden_state.requires_grad
        return saved.total()

    windows = (30, 60)
    growth = [kept(layers, 2 + windows[1] * 14) - kept(layers, 2 + windows[0] * 14) for layers in (2, 5)]
    assert growth[1] - growth[0] == 3 * 30 * tiny.WINDOW * tiny.WIDTH * 4


def test_python_does_as_much_for_each_window_however_many_there_are():
    def calls(windows):
        model, count = attach(tiny.make_model("bart"), window=tiny.WINDOW, schedule="layer"), collections.Counter()
        batch = tiny.make_batch("bart", (2 + 14 * windows,))
        sys.setprofile(lambda _, event, __: count.update([event]))
        try:
            model(**batch).loss.backward()
        finally:
            sys.setprofile(None)
        return count.total()

    counts = [calls(windows) for windows in (20, 40, 80)]
    assert counts[2] - counts[1] == pytest.approx(2 * (counts[1] - counts[0]), rel=0.05)


@pytest.mark.parametrize(
    "fields",
    [{"windows_per_pass": "auto"}, {"recompute": "auto"}, {"compile": True}],
    ids=lambda fields: next(iter(fields)),
)
def test_what_needs_a_trial_of_the_whole_encoder_is_refused(fields):
    ((name, value),) = fields.items()
    with pytest.raises(ValueError, match=f"{name}={value!r} is refused with schedule='layer'; allowed is"):
        CachedConfig(schedule="layer", **fields)


@pytest.mark.parametrize("family", ["bart", "mbart", "pegasus", "led"])
def test_each_pass_drops_layers_of_its_own(family):
    model = tiny.make_model(family, dropout=0.1, dtype=torch.float64)
    model.get_encoder().layerdrop = 0.5
    settings = {"schedule": "layer", "windows_per_pass": 2, "recompute": 1}
    assert gradient_error(model, tiny.make_batch(family, tiny.LENGTHS), random=True, **settings) < EXACT
    assert model.get_encoder().layerdrop == 0.5


@pytest.mark.parametrize(
    ("family", "engine", "dropout"),
    [("bart", engine, 0.1) for engine in ("ddp", "fsdp2", "zero1", "zero2", "zero3")]
    + [(family, engine, 0.1) for family in ("t5", "led") for engine in ("fsdp2", "zero3")]
    + [("pegasus", engine, 0.0) for engine in ("fsdp2", "zero3")],
)
def test_parity_under_engines(zero_ranks, family, engine, dropout):
    errors = zero_ranks.run(
        engines.parity, family=family, engine=engine, dropout=dropout, schedule="layer", windows=(1, 7)
    )
    assert max(errors) < FP32


def drop_layers(model):
    model.get_encoder().layerdrop = 0.5


def freeze_the_lower_end(model):
    """No gradient arrives at the first layer's input, on which engines hang their hooks, but its anchor's."""
    for name, parameter in model.get_encoder().named_parameters():
        parameter.requires_grad_("embed" not in name and "layers.0.self_attn" not in name)


@pytest.mark.parametrize("change", [drop_layers, freeze_the_lower_end])
@pytest.mark.parametrize("engine", ["fsdp2", "zero3"])
def test_changed_encoders_under_engines(zero_ranks, engine, change):
    options = {"family": "bart", "engine": engine, "dropout": 0.1, "schedule": "layer", "windows": (1, 7)}
    assert max(zero_ranks.run(engines.parity, change=change, steps=2, accumulation=1, **options)) < FP32


def gathered(layer, engine):
    """Whether a layer's parameters are whole on this rank now, or on their way."""
    if engine == "fsdp2":
        group = layer._get_fsdp_state()._fsdp_param_group
        return group.is_unsharded or group._all_gather_result is not None
    return any(parameter.ds_status.name != "NOT_AVAILABLE" for parameter in layer.parameters())


def peak_of_gathered_layers(engine):
    """The largest number of encoder layers that were whole at one time, seen from inside the passes of a step."""
    config = tiny.make_config("bart", 0.0)
    config.encoder_layers = 4
    model = attach(tiny.MODELS["bart"](config).train(), window=tiny.WINDOW, schedule="layer")
    runner = engines.make_engine(engine, model, 1, **({"zero": engines.RELEASE} if engine == "zero3" else {}))
    layers, seen = model.get_encoder().layers, []
    for layer in layers:
        layer.self_attn.register_forward_pre_hook(lambda *_: seen.append([gathered(each, engine) for each in layers]))
    for batches in engines.documents("bart", rank=dist.get_rank(), steps=3, accumulation=1, windows=(1, 5)):
        runner.step(batches)
    assert len(layers) == 4 and all(any(column) for column in zip(*seen, strict=True)), "nothing was seen"
    return max(map(sum, seen))


@pytest.mark.parametrize("engine", ["fsdp2", "zero3"])
def test_one_encoder_layer_is_gathered_at_a_time(zero_ranks, engine):
    assert zero_ranks.run(peak_of_gathered_layers, engine=engine) == [1, 1]


def test_units_are_named_for_accelerate():
    assert fsdp.wrap_classes(make()) == ["ReplayedBartEncoderLayer", "BartDecoderLayer"]
