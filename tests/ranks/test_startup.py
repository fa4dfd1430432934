"""How a rank starts: the backend and the patience."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from cached_ds.ranks import startup

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
