"""Which checkpoints the engine itself reads, what is refused, and state read by the names of parameters."""

from __future__ import annotations

import pytest
import torch

from cached_ds.checkpoints import elastic
from cached_ds.checkpoints.state import PlainState
from helpers import tiny

SAVED = {"engine": "zero2", "world_size": 2, "documents_per_step": 4, "optimizer": "torch.optim.adamw.AdamW",
         "files": {"scheduler.pt": {}}}  # fmt: skip


@pytest.mark.parametrize(
    ("saved", "here", "native"),
    [
        (("single", 1), ("ddp", 4), True),
        (("ddp", 4), ("ddp", 2), True),
        (("fsdp2", 2), ("fsdp2", 4), True),
        (("zero2", 2), ("zero2", 2), True),
        (("zero2", 2), ("zero2", 4), False),
        (("zero2", 2), ("zero3", 2), False),
        (("zero2", 2), ("ddp", 2), False),
        (("ddp", 2), ("fsdp2", 2), False),
    ],
)
def test_an_engine_reads_its_own(saved, here, native):
    kinds = [dict(zip(("engine", "world_size"), kind, strict=True)) for kind in (saved, here)]
    assert elastic.is_native(*kinds) is native


def test_another_number_of_documents_per_step_is_refused():
    with pytest.raises(ValueError, match="with 4 documents per step, and this run takes 3; ranks .* has to be 4"):
        elastic.check("folder", SAVED, SAVED | {"documents_per_step": 3})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"files": {}}, "its schedule is DeepSpeed's own"),
        ({"files": {"scheduler.pt": {}, "adapter_config.json": {}}}, "it is of an adapter"),
        (
            {"optimizer": "deepspeed.ops.adam.FusedAdam"},
            "its optimizer is deepspeed.ops.adam.FusedAdam and not torch's",
        ),
    ],
)
def test_what_only_its_engine_can_read_stays_with_it(changes, why):
    elastic.check("folder", SAVED | changes, SAVED)
    elastic.check("folder", SAVED, SAVED | {"engine": "ddp"})
    with pytest.raises(ValueError, match=f"{why}.*, so it can be resumed under zero2 on 2 ranks only"):
        elastic.check("folder", SAVED | changes, SAVED | {"engine": "ddp"})


def test_a_plain_optimizer_comes_back_by_names(tmp_path):
    model = tiny.make_model("bart")
    names = [name for name, _ in model.named_parameters()]
    order = sorted(names)
    by_name = dict(model.named_parameters())
    optimizer = torch.optim.AdamW([by_name[name] for name in order])
    for number, name in enumerate(order):
        by_name[name].grad = torch.full_like(by_name[name], number)
    optimizer.step()
    model.save_pretrained(tmp_path)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    other = tiny.make_model("bart", seed=1)
    fresh = torch.optim.AdamW(list(other.parameters()))
    elastic.fill(other, fresh, PlainState(tmp_path, order=order))
    for name, parameter in other.named_parameters():
        assert torch.equal(parameter, by_name[name])
        for entry, value in optimizer.state[by_name[name]].items():
            assert torch.equal(fresh.state[parameter][entry], value), (name, entry)
    with pytest.raises(ValueError, match="parameters were trained there, and 3 are here"):
        PlainState(tmp_path, order=order[:3])
