"""launch/train.py once per engine in one process: importing takes longer than a few steps of a tiny model.

The command line is OUTPUT ENGINE[,ENGINE] FLAGS...; an engine is a config of ds_configs/, or `launcher`: what the
launcher has set up. Each writes into OUTPUT/ENGINE.
"""

from __future__ import annotations

import sys

import torch.distributed as dist
from helpers.repo import ROOT

sys.path.insert(0, str(ROOT / "launch"))

import train  # noqa: E402

from cached_ds.leaving import leave  # noqa: E402

meet = train.start_rank


def train_each(output, engines, words):
    """Train under each engine; the ranks meet only once."""
    train.start_rank = lambda argv: None if dist.is_initialized() else meet(argv)
    for engine in engines.split(","):
        config = [] if engine == "launcher" else ["--deepspeed", str(ROOT / "ds_configs" / f"{engine}.json")]
        train.work([*config, "--output_dir", f"{output}/{engine}", *words])


def main(argv):
    """Train as the command line says, and leave."""
    output, engines, *words = [word for word in argv if not word.startswith("--local_rank")]
    train_each(output, engines, words)
    leave()
