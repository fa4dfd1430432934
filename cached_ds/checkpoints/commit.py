"""Commit: a checkpoint that all ranks write together appears whole, by one rename, or not at all.

1. All ranks write into a folder beside the checkpoint, `tmp-checkpoint/`. What a killed run left there is removed.
2. Each node's first rank sees all that its node wrote on the disk.
3. The ranks share the reading of the files for their digests; the leader writes the manifest.
4. The leader renames the folder, and sees the rename on the disk.

Between the steps all ranks meet. Where nodes share a disk, rank 0 is the leader, and no other rank looks for the
checkpoint at its final place: a network's file system may show a rename late (transformers #27925, #28015). Where a
node has a disk of its own, the checkpoint is in pieces, and each piece has a leader. Which it is, is found out.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object

from cached_ds.checkpoints import manifest, staging
from cached_ds.checkpoints.staging import STAGING


@contextmanager
def committing(folder: Path, *, facts: Mapping[str, Any]) -> Iterator[Path]:
    """Give all ranks a folder to write to, which becomes `folder` when the block ends; a collective.

    If the block raises, `folder` is what it was. If it was there, it is replaced.

    Args:
        folder: of the checkpoint to be.
        facts: for the manifest.
    """
    sharers = staging.begin(folder.parent / STAGING)
    written = folder.parent / STAGING / folder.name
    yield written
    PartialState().wait_for_everyone()
    if PartialState().is_local_main_process:
        staging.sync(written)
    PartialState().wait_for_everyone()
    is_leader = PartialState().process_index == sharers[0]
    sizes = gather_object([manifest.sizes(written) if is_leader else {}])[sharers[0]]
    mine = manifest.shares(sizes, count=len(sharers))[sharers.index(PartialState().process_index)]
    digests = gather_object([manifest.digests(written, mine)])
    if is_leader:
        manifest.write(written, facts, sizes=sizes, digests=_merged(digests[rank] for rank in sharers))
        staging.sync_entry(written)
    PartialState().wait_for_everyone()
    if is_leader:
        _publish(written, folder)
    PartialState().wait_for_everyone()


def remove(folder: Path) -> None:
    """Remove a checkpoint at once: killed meanwhile, it leaves no half of one under its name."""
    doomed = folder.parent / STAGING / f"removed-{folder.name}"
    doomed.parent.mkdir(exist_ok=True)
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed.parent)


def _publish(written: Path, folder: Path) -> None:
    if folder.exists():
        folder.rename(written.parent / f"replaced-{folder.name}")
    written.rename(folder)
    staging.sync_entry(folder.parent)
    shutil.rmtree(written.parent)


def _merged(parts: Iterator[dict[str, str]]) -> dict[str, str]:
    return {name: digest for part in parts for name, digest in part.items()}
