"""Choice: a run resumes from the checkpoint it is given or, after a launcher's restart, from the newest whole one.

torchrun (`--max-restarts`) and SLURM (`--requeue`) run the same command again. A first start never resumes by itself
from the checkpoints that an earlier run left in the folder; `--resume_from_checkpoint true` does. Once a first start
has been recorded there, only its own checkpoints count, or a restart might go on from the earlier run's later step.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainingArguments

from cached_ds.checkpoints import manifest
from cached_ds.checkpoints.staging import sharers_of

logger = logging.getLogger(__name__)
RESTART_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
NAME = "checkpoint-"
TRAINING_STATE = "trainer_state.json"


class WholeCheckpoint(str):
    """The path of a checkpoint all of whose digests have been found to hold."""


def choose_checkpoint(
    training: TrainingArguments, asked: str | bool | None, *, run: str | None = None
) -> WholeCheckpoint | None:
    """The `resume_from_checkpoint` for `Trainer.train`; all ranks call this and get the same.

    Only some nodes count a restart, so a run counts as restarted if any rank says so. Which checkpoints were skipped,
    and why, is logged; and that none is whole. transformers would take the one with the largest number, whole or not.

    Args:
        training: the arguments of the run.
        asked: a folder; true: the newest whole checkpoint; false or None: that only after a restart.
        run: which run's, as the first rank knows it; None: any. It counts only where no folder is asked for.

    Returns the path of a checkpoint, or None for a first start; where none is whole, too.

    Raises:
        ValueError: a folder was asked for that is not there, or is no whole checkpoint.
    """
    asked = str(asked or "false")
    if asked.lower() not in ("true", "false"):
        return checked(asked)
    resumes = asked.lower() == "true" or any(os.environ.get(name, "0") != "0" for name in RESTART_COUNTS)
    answers = gather_object([(resumes, _steps(training), run)])
    if not any(resumes for resumes, *_ in answers):
        return None
    for step in sorted(set.union(*(steps for _, steps, _ in answers)), reverse=True):
        folder = Path(str(training.output_dir), f"{NAME}{step}")
        if (found := fault(folder, run=answers[0][2])) is None:
            logger.info("training goes on from %s", folder.name)
            return WholeCheckpoint(folder)
        logger.warning("skipped %s: %s", folder.name, found)
    logger.warning("no checkpoint in %s can be taken: the run starts anew", training.output_dir)
    return None


def checked(folder: str) -> WholeCheckpoint:
    """The same path, if a whole checkpoint is there; a collective.

    Raises:
        ValueError: what is there instead.
    """
    if isinstance(folder, WholeCheckpoint):
        return folder
    if not all(gather_object([Path(folder).is_dir()])):
        raise ValueError(f"--resume_from_checkpoint {folder}: there is no such folder")
    if (found := fault(Path(folder))) is not None:
        raise ValueError(f"--resume_from_checkpoint {folder}: not a whole checkpoint, {found}")
    return WholeCheckpoint(folder)


def fault(folder: Path, *, run: str | None = None) -> str | None:
    """Why a run cannot go on from a folder, as a phrase; None if it can. A collective: ranks share the reading."""
    sharers = sharers_of(folder / manifest.MANIFEST)
    here = PartialState().process_index
    mine = _of_another(folder, run) or manifest.fault(folder, share=sharers.index(here), count=len(sharers))
    mine = mine or _missing_state(folder)
    found = [(rank, one) for rank, one in enumerate(gather_object([mine])) if one is not None]
    if not found:
        return None
    rank, first = found[0]
    return first if PartialState().num_processes == 1 else f"{first} (seen by rank {rank})"


def _of_another(folder: Path, run: str | None) -> str | None:
    """Say so if a checkpoint is another run's; one that cannot be read, or does not know, is not."""
    try:
        is_another = run is not None and manifest.read(folder).get("run", run) != run
    except ValueError:
        return None  # manifest.fault says what is wrong
    return "it is of an earlier run in this folder; to go on from it, name it" if is_another else None


def _missing_state(folder: Path) -> str | None:
    files = manifest.read(folder)["files"]
    if TRAINING_STATE not in files:
        return f"it holds no {TRAINING_STATE}"
    if not any(name.startswith("rng_state") for name in files):
        return "it holds the model only (--save_only_model)"
    return None


def _steps(training: TrainingArguments) -> set[int]:
    """The steps whose checkpoints this rank can see, whole or not."""
    names = (folder.name.removeprefix(NAME) for folder in Path(str(training.output_dir)).glob(f"{NAME}*"))
    return {int(name) for name in names if name.isdecimal()}
