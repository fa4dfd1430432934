"""How a rank starts: the backend, the patience, and the checkpoint it goes on from after a restart."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from cached_ds.ranks import startup
from cached_ds.training import checkpoints

CUDA = torch.device("cuda", 0)
FSDP = {"ACCELERATE_USE_FSDP": "true"}


@pytest.mark.parametrize(
    ("device", "told", "environ", "backend"),
    [
        (None, {}, {}, "gloo"),
        (None, {}, FSDP | {"FSDP_OFFLOAD_PARAMS": "true"}, "gloo"),
        (CUDA, {"use_cpu": "True"}, {}, "gloo"),
        (CUDA, {}, {"ACCELERATE_USE_CPU": "true"}, "gloo"),
        (CUDA, {}, {}, "nccl"),
        (CUDA, {"ddp_backend": "gloo"}, {}, "gloo"),
        (CUDA, {}, FSDP, "nccl"),
        (CUDA, {}, FSDP | {"FSDP_OFFLOAD_PARAMS": "true"}, "cuda:nccl,cpu:gloo"),
        (CUDA, {}, FSDP | {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}, "cuda:nccl,cpu:gloo"),
    ],
)
def test_the_backend_is_the_one_accelerate_would_choose(device, told, environ, backend, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: device)
    assert startup.backend(told, environ) == backend


def timeouts():
    """Of a group that is made without one, after a start with `--ddp_timeout 77`."""
    with mock.patch.multiple(distributed_c10d, default_pg_timeout=None, default_pg_nccl_timeout=None):
        startup._set_default_timeout(startup._timeout({"ddp_timeout": "77"}))
        group = dist.new_group([0, 1])
    return group._get_backend(torch.device("cpu")).options._timeout.total_seconds()


def test_every_group_has_the_timeout_of_the_run(ranks):
    assert ranks.run(timeouts) == [77, 77]


def test_a_time_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("CACHED_DS_JOIN_TIMEOUT", "5m")
    with pytest.raises(ValueError, match="CACHED_DS_JOIN_TIMEOUT='5m'.*seconds"):
        startup.patience()


def checkpoint(folder, step, *, state="{}", random_state=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    (path / "trainer_state.json").write_text(state)
    if random_state:
        torch.save({}, path / "rng_state.pth")


def test_only_a_restart_goes_on_by_itself_and_only_from_what_is_complete(tmp_path, monkeypatch):
    training = SimpleNamespace(output_dir=tmp_path, resume_from_checkpoint=None, world_size=1, process_index=0)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert checkpoints.choose_checkpoint(training) is None, "nothing to go on from"
    checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 11, random_state=False)
    checkpoint(tmp_path, 12, state='{"global_')
    assert checkpoints.choose_checkpoint(training) == str(tmp_path / "checkpoint-10")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert checkpoints.choose_checkpoint(training) is None, "a first start"
    training.resume_from_checkpoint = "false"
    assert checkpoints.choose_checkpoint(training) is None
    training.resume_from_checkpoint = "nowhere"
    with pytest.raises(ValueError, match="--resume_from_checkpoint nowhere: there is no such folder"):
        checkpoints.choose_checkpoint(training)
    training.resume_from_checkpoint = str(tmp_path / "checkpoint-9")
    assert checkpoints.choose_checkpoint(training) == str(tmp_path / "checkpoint-9")


@pytest.mark.parametrize("asked", [True, "true", "True"])
def test_asked_to_resume_it_takes_the_last_complete_checkpoint_and_names_the_others(asked, tmp_path, caplog):
    """Transformers takes the largest number, whatever is in its folder."""
    training = SimpleNamespace(output_dir=tmp_path, resume_from_checkpoint=asked, world_size=1, process_index=0)
    assert checkpoints.choose_checkpoint(training) is None
    assert "is complete: the run starts anew" in caplog.text
    checkpoint(tmp_path, 12, state='{"global_')
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoints.choose_checkpoint(training) is None
    caplog.clear()
    checkpoint(tmp_path, 9)
    checkpoint(tmp_path, 10)
    assert checkpoints.choose_checkpoint(training) == str(tmp_path / "checkpoint-10")
    assert "skipped because they are not complete on all ranks: checkpoint-12" in caplog.text
