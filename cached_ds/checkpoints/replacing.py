"""Replacing: a model takes the place of an earlier one in a folder that holds other things too, such as checkpoints.

One rename cannot do that. The weights stand for it: `from_pretrained` refuses a folder without any.

1. The new model is written into a folder below, `tmp-checkpoint/`, and seen on the disk.
2. The earlier weights are removed.
3. Everything new is renamed to its place, the weights last, and of weights in shards their index.

Killed in 1, a save leaves the earlier model; in 2 or 3, one that cannot be loaded; later, the new one.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from transformers.utils import ADAPTER_CONFIG_NAME

from cached_ds.checkpoints import manifest, staging

SHARD = r"(-\d{5}-of-\d{5})?"
WEIGHTS = re.compile(rf"((adapter_)?model{SHARD}\.safetensors|(adapter|pytorch)_model{SHARD}\.bin)(\.index\.json)?")
MODEL_CARD = "README.md"


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give all ranks a folder to write to, whose files get into `folder` when the block ends; a collective.

    If the block raises, `folder` is what it was. A model card in it stays: PEFT writes one beside every adapter.

    Args:
        folder: of the model, there or not.
    """
    leader = staging.begin(folder / staging.STAGING)[0]
    written = folder / staging.STAGING / "model"
    yield written
    PartialState().wait_for_everyone()
    if PartialState().is_local_main_process:
        staging.sync(written)
    PartialState().wait_for_everyone()
    if PartialState().process_index == leader:
        _place(written, folder)
    PartialState().wait_for_everyone()


@contextmanager
def replacing_alone(folder: Path) -> Iterator[Path]:
    """The same for one rank that writes on its own, without the others."""
    staging.make(folder / staging.STAGING, mark=uuid.uuid4().hex)
    written = folder / staging.STAGING / "model"
    yield written
    staging.sync(written)
    _place(written, folder)


def _place(written: Path, folder: Path) -> None:
    """Exchange the files. Where nodes have disks of their own, not each has got some."""
    if new := sorted(manifest.sizes(written)):
        _remove_weights(folder)
        _rename([name for name in new if not WEIGHTS.fullmatch(name)], written, folder)
        _rename([name for name in new if WEIGHTS.fullmatch(name)], written, folder)
    shutil.rmtree(written.parent)


def _remove_weights(folder: Path) -> None:
    """Remove weights, indices before shards; and what would make a whole model an adapter."""
    for path in sorted(folder.iterdir(), reverse=True):
        if WEIGHTS.fullmatch(path.name):
            path.unlink()
    (folder / ADAPTER_CONFIG_NAME).unlink(missing_ok=True)
    staging.sync_entry(folder)


def _rename(names: list[str], written: Path, folder: Path) -> None:
    """Rename files one after another, each seen on the disk; a model card that is there stays."""
    for name in names:
        target = folder / name
        if name != MODEL_CARD or not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            (written / name).replace(target)
            staging.sync_entry(target.parent)
    staging.sync_entry(folder)
