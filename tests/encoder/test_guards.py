"""Guards: an engine set up so that gradients would be lost, or ranks wait for ever, is refused on every rank."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from accelerate import ParallelismConfig
from accelerate.state import AcceleratorState
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from cached_ds import attach, fsdp
from cached_ds.encoder.layered import Replayed
from cached_ds.encoder.windowed import Windowed
from helpers import engines, tiny

EQUAL, UNEQUAL = (3, 3), (1, 7)
SECONDS = 110  # a hang ends here, and fails; starting the ranks and importing DeepSpeed takes 45 s of it


def refusal(model, windows):
    """The message with which a forward is refused."""
    ((batch,),) = engines.documents("bart", rank=dist.get_rank(), steps=1, accumulation=1, windows=windows)
    with pytest.raises(RuntimeError, match="^cached_ds: ") as caught:
        model(**batch)
    return str(caught.value)


def shard_layers(windows, inner, schedule):
    """The encoder's layers as FSDP units, as transformers' own list of modules not to split says; then the root."""
    model = attach(tiny.make_model("bart"), window=tiny.WINDOW, schedule=schedule)
    encoder = model.get_encoder()
    for module in encoder.layers if inner == "layers" else [encoder.layers[1].fc1]:
        fully_shard(module)
    fully_shard(model)
    return refusal(model, windows)


@pytest.mark.parametrize(
    ("schedule", "inner"), [("window", "layers"), ("window", "one-linear"), ("layer", "one-linear")]
)
@pytest.mark.parametrize("windows", [EQUAL, UNEQUAL])
def test_fsdp2_units_inside_what_is_replayed(ranks, windows, inner, schedule):
    for message in ranks.run(shard_layers, windows=windows, inner=inner, schedule=schedule, timeout=SECONDS):
        assert "is sharded inside the encoder's forward" in message
        assert "cached_ds.fsdp.shard(model), or the names of cached_ds.fsdp.wrap_classes(model)" in message


def wrap_in_fsdp1(use_orig_params, windows, schedule):
    model = attach(tiny.make_model("bart"), window=tiny.WINDOW, schedule=schedule)
    device = torch.device("cpu")
    return refusal(FullyShardedDataParallel(model, use_orig_params=use_orig_params, device_id=device), windows)


@pytest.mark.parametrize("schedule", ["window", "layer"])
@pytest.mark.parametrize("windows", [EQUAL, UNEQUAL])
@pytest.mark.parametrize("use_orig_params", [True, False])
def test_fsdp1(ranks, use_orig_params, windows, schedule):
    options = {"use_orig_params": use_orig_params, "windows": windows, "schedule": schedule}
    for message in ranks.run(wrap_in_fsdp1, timeout=SECONDS, **options):
        assert "FSDP1 (FullyShardedDataParallel)" in message
        assert "use FSDP2: cached_ds.fsdp.shard(model), or fsdp_version: 2" in message


def initialize_zero3(model):
    import deepspeed

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return deepspeed.initialize(model=model, optimizer=optimizer, config=engines.ds_settings(3, 1, 0.0))[0]


def attach_after_zero3():
    model = tiny.make_model("bart")
    initialize_zero3(model)
    with pytest.raises(ValueError, match="ZeRO-3 already manages the encoder; attach before deepspeed.initialize"):
        attach(model, window=tiny.WINDOW)


def test_attach_after_zero3(zero_ranks):
    """Hooks inside the encoder would gather once per window: exact with equal windows, a hang with others."""
    zero_ranks.run(attach_after_zero3)


def zero3_without_leaf(windows, schedule):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replayed if schedule == "layer" else Windowed, "_z3_leaf", False)
        model = attach(tiny.make_model("bart"), window=tiny.WINDOW, schedule=schedule)
        return refusal(initialize_zero3(model), windows)


@pytest.mark.parametrize("schedule", ["window", "layer"])
@pytest.mark.parametrize("windows", [EQUAL, UNEQUAL])
def test_zero3_that_does_not_gather_as_one_what_is_replayed(zero_ranks, windows, schedule):
    for message in zero_ranks.run(zero3_without_leaf, windows=windows, schedule=schedule, timeout=SECONDS):
        assert "call cached_ds.attach(model) before deepspeed.initialize" in message


def attach_sharded():
    model = fsdp.shard(attach(tiny.make_model("bart"), window=tiny.WINDOW))
    with pytest.raises(ValueError, match="already attached"):
        attach(model, window=tiny.WINDOW)
    model = tiny.make_model("bart")
    fully_shard(model)
    with pytest.raises(ValueError, match="already sharded; attach first, then shard the model"):
        attach(model, window=tiny.WINDOW)
    wrapped = torch.nn.parallel.DistributedDataParallel(tiny.make_model("bart"))
    with pytest.raises(ValueError, match="DistributedDataParallel is not a Hugging Face model; attach it before"):
        attach(wrapped, window=tiny.WINDOW)


def test_attach_after_sharding(ranks):
    ranks.run(attach_sharded, timeout=SECONDS)


def shard_unattached():
    with pytest.raises(ValueError, match="the model is not attached; call cached_ds.attach"):
        fsdp.shard(tiny.make_model("bart"))


def test_shard_without_attach(ranks):
    ranks.run(shard_unattached, timeout=SECONDS)


def test_functional_call_is_not_blamed_on_fsdp1():
    model, batch = attach(tiny.make_model("bart"), window=tiny.WINDOW), tiny.make_batch("bart", (40,))
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with pytest.raises(RuntimeError, match=r"^cached_ds: .* torch.func.functional_call") as caught:
        torch.func.functional_call(model, weights, kwargs=batch)
    assert "FSDP1" not in str(caught.value)


def test_a_checkpointed_layer_under_the_layer_schedule_is_refused_with_a_sentence():
    model = attach(tiny.make_model("bart"), window=tiny.WINDOW, schedule="layer")
    layers = model.get_encoder().layers
    for number, layer in enumerate(layers):
        layers[number] = checkpoint_wrapper(layer)
    loss = model(**tiny.make_batch("bart", (40,))).loss
    with pytest.raises(
        RuntimeError, match=r"^cached_ds: ReplayedBartEncoderLayer was called outside .* leave it unwrapped"
    ):
        loss.backward()


@pytest.mark.parametrize("name", ["cp_size", "sp_size"])
def test_accelerates_sequence_parallelism_is_refused(name, monkeypatch):
    model = attach(tiny.make_model("bart"), window=tiny.WINDOW)
    monkeypatch.setitem(AcceleratorState._shared_state, "parallelism_config", ParallelismConfig(**{name: 2}))
    with pytest.raises(ValueError, match=f"^{name}=2 is refused; allowed is 1"):
        model(**tiny.make_batch("bart", (40,)))
