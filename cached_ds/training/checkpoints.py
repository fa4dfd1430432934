"""Checkpoints: a run resumes from the one it is given or, after a launcher's restart, from the last complete one.

torchrun (`--max-restarts`) and SLURM (`--requeue`) run the same command again. A first start never resumes by itself
from the checkpoints that an earlier run left in the folder; `--resume_from_checkpoint true` does.
"""

from __future__ import annotations

import json
import logging
import os
import zipfile
from pathlib import Path

from accelerate.utils import gather_object
from transformers import TrainingArguments

logger = logging.getLogger(__name__)
RESTART_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def choose_checkpoint(training: TrainingArguments) -> str | None:
    """The `resume_from_checkpoint` for `Trainer.train`; all ranks call this and get the same.

    Only some nodes count a restart, and a killed rank may have left a half-written checkpoint. So a run counts as
    restarted if any rank says so, and a checkpoint as complete if all ranks see it complete. transformers would take
    the checkpoint with the largest number, complete or not.

    Returns the path of a checkpoint, or None for a first start; where none is complete, too, and that is logged.

    Raises:
        ValueError: a folder was asked for that is not there, or is no checkpoint.
    """
    asked = str(training.resume_from_checkpoint or "false")
    if asked.lower() not in ("true", "false"):
        if not Path(asked).is_dir():
            raise ValueError(f"--resume_from_checkpoint {asked}: there is no such folder")
        if not Path(asked, "trainer_state.json").is_file():
            raise ValueError(f"--resume_from_checkpoint {asked}: not a checkpoint, it holds no trainer_state.json")
        return asked
    is_asked = asked.lower() == "true"
    resumes = is_asked or any(os.environ.get(name, "0") != "0" for name in RESTART_COUNTS)
    answers = gather_object([(resumes, complete_steps(training), started_steps(training))])
    if not any(resumes for resumes, _, _ in answers):
        return None
    complete = set.intersection(*(steps for _, steps, _ in answers))
    started = set.union(*(steps for _, _, steps in answers))
    skipped = ", ".join(f"checkpoint-{step}" for step in sorted(started - complete))
    if not complete:
        logger.warning("no checkpoint in %s is complete: the run starts anew", training.output_dir)
    if skipped:
        logger.warning("skipped because they are not complete on all ranks: %s", skipped)
    return str(_folder(training, max(complete))) if complete else None


def started_steps(training: TrainingArguments) -> set[int]:
    """The steps whose checkpoints this rank can see, complete or not."""
    names = (folder.name.removeprefix("checkpoint-") for folder in Path(str(training.output_dir)).glob("checkpoint-*"))
    return {int(name) for name in names if name.isdecimal()}


def complete_steps(training: TrainingArguments) -> set[int]:
    """The steps whose checkpoints are complete, as far as this rank can see."""
    random_state = "rng_state.pth" if training.world_size == 1 else f"rng_state_{training.process_index}.pth"
    return {
        step
        for step in started_steps(training)
        # A rank writes its random state after model and optimizer, and the first rank then writes the trainer's state.
        if zipfile.is_zipfile(_folder(training, step) / random_state)
        and _is_json(_folder(training, step) / "trainer_state.json")
    }


def _folder(training: TrainingArguments, step: int) -> Path:
    return Path(str(training.output_dir), f"checkpoint-{step}")


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
