"""launch/train.py several times in one process: importing takes longer than a few steps of a tiny model."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from unittest import mock

import torch.distributed as dist
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from cached_ds.ranks.discovery import discover
from helpers.repo import ROOT

sys.path.insert(0, str(ROOT / "launch"))

import train  # noqa: E402


def run(words):
    """What `launch/train.py WORDS...` does, except that ranks that have met do not meet again, and nobody leaves."""
    with mock.patch.object(train, "start_rank", start_once):
        train.work(words)
    unset_hf_deepspeed_config()  # after ZeRO-3 transformers would partition the next model too, whatever it is for


def start_once(argv, *, start=train.start_rank):
    """This rank, after a meeting if there was none yet."""
    rank = this_rank()
    return rank if dist.is_initialized() else start(argv)


@functools.cache
def this_rank():
    """This rank as its launcher made it: the first of several runs changes the environment."""
    return discover(os.environ)


def run_engines(output, *, engines, words):
    """Train once under each engine: a config of ds_configs/, the path of one, or `launcher`: what that has set up."""
    for engine in engines:
        config = [] if engine == "launcher" else ["--deepspeed", str(ROOT / "ds_configs" / f"{engine}.json")]
        run([*config, "--output_dir", f"{output}/{Path(engine).name}", *words])
