"""A model that takes an earlier one's place: killed at any step, it leaves the one, the other, or none that loads."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from transformers import BartForConditionalGeneration

from cached_ds.checkpoints import replacing
from helpers import tiny

EARLIER, NEW = tiny.make_model("bart", seed=0), tiny.make_model("bart", seed=1)
STEPS = ((Path, "unlink"), (Path, "replace"), (os, "fsync"), (shutil, "rmtree"))


class Killed(BaseException):
    """Ends a save; nothing tidies up."""


def kill_at(patch, step):
    """Let the save end before its `step`-th call that changes the disk, counted from 0."""
    calls = iter(range(step + 1))

    def counted(original):
        def wrapped(*args, **kwargs):
            if next(calls) == step:
                raise Killed
            return original(*args, **kwargs)

        return wrapped

    for owner, name in STEPS:
        patch.setattr(owner, name, counted(getattr(owner, name)))


def loaded(folder):
    """Which model `from_pretrained` finds: the earlier or the new one; "refused": none, and it says what is missing."""
    try:
        model = BartForConditionalGeneration.from_pretrained(folder)
    except OSError as error:
        assert re.search("no file named model.safetensors.* found in directory|not appear to have.*model-0", str(error))
        return "refused"
    for name, saved in {"earlier": EARLIER, "new": NEW}.items():
        if all(torch.equal(value, model.state_dict()[key]) for key, value in saved.state_dict().items()):
            return name
    raise AssertionError(f"a mixed model in {sorted(path.name for path in folder.iterdir())}")


@pytest.mark.parametrize("sizes", [("1GB", "1GB"), ("20KB", "1GB"), ("1GB", "20KB"), ("20KB", "20KB")])
def test_killed_at_any_step_it_leaves_no_mixed_model(tmp_path, sizes):
    """The earlier model, or the new one, or both are in shards."""
    found = []
    while not found or found[-1] != "ended":
        folder = tmp_path / str(len(found))
        EARLIER.save_pretrained(folder, max_shard_size=sizes[0])
        (folder / "checkpoint-1").mkdir()
        try:
            with pytest.MonkeyPatch.context() as patch, replacing.replacing_alone(folder) as written:
                NEW.save_pretrained(written, max_shard_size=sizes[1])
                kill_at(patch, len(found))
        except Killed:
            found.append(loaded(folder))
        else:
            assert loaded(folder) == "new"
            found.append("ended")
    assert list(dict.fromkeys(found)) == ["earlier", "refused", "new", "ended"], found
    NEW.save_pretrained(tmp_path / "undisturbed", max_shard_size=sizes[1])
    names = {path.name for path in (tmp_path / "undisturbed").iterdir()}
    assert {path.name for path in folder.iterdir()} == names | {"checkpoint-1"}


def test_a_model_takes_the_place_of_an_adapter(tmp_path):
    """With its config there, transformers would look for the adapter's weights."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    with replacing.replacing_alone(tmp_path) as written:
        NEW.save_pretrained(written)
    assert loaded(tmp_path) == "new" and not list(tmp_path.glob("adapter*"))


def test_a_save_that_fails_leaves_the_earlier_model_and_the_next_one_tidies_up(tmp_path):
    EARLIER.save_pretrained(tmp_path)
    with pytest.raises(OSError, match="full"), replacing.replacing_alone(tmp_path) as written:
        NEW.save_pretrained(written)
        (written / "more").write_text("")
        raise OSError("the disk is full")
    assert loaded(tmp_path) == "earlier"
    with replacing.replacing_alone(tmp_path) as written:
        NEW.save_pretrained(written)
    assert loaded(tmp_path) == "new" and not (tmp_path / "more").exists() and not list(tmp_path.glob("tmp-*"))


def test_a_card_that_somebody_has_written_stays(tmp_path):
    for text in ("of somebody", "made up"):
        with replacing.replacing_alone(tmp_path) as written:
            written.mkdir()
            (written / "README.md").write_text(text)
            (written / "config.json").write_text(text)
    assert (tmp_path / "README.md").read_text() == "of somebody" and (tmp_path / "config.json").read_text() == "made up"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("disks", [1, 2])
def test_ranks_replace_it_together_on_one_disk_or_on_several(ranks, tmp_path, disks):
    """Where only the first rank writes, nothing happens on the disk of another one."""
    folders = [tmp_path / f"disk{rank % disks}" for rank in range(2)]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("earlier")
    ranks.run(replace_together, folders=folders, writers=[0, 1] if disks == 1 else [0])
    files = {"config.json", "of-rank-0", "of-rank-1"} if disks == 1 else {"config.json", "of-rank-0"}
    assert {path.name for path in folders[0].iterdir()} == files
    assert (folders[0] / "config.json").read_text() == "new"
    if disks == 2:
        assert [path.name for path in folders[1].iterdir()] == ["config.json"]
        assert (folders[1] / "config.json").read_text() == "earlier"


def replace_together(*, folders, writers):
    """On a rank: write a file of its own, the first rank a config too; with two folders, on two nodes."""
    state = PartialState(cpu=True)
    rank = state.process_index
    with pytest.MonkeyPatch.context() as patch:
        if folders[0] != folders[1]:
            patch.setattr(PartialState, "is_local_main_process", True)
        with replacing.replacing(folders[rank]) as written:
            if rank in writers:
                written.mkdir(parents=True, exist_ok=True)
                (written / f"of-rank-{rank}").touch()
            if rank == 0:
                (written / "config.json").write_text("new")
