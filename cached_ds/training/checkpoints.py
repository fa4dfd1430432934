"""Checkpoints: a run resumes from the one it is given or, after a launcher's restart, from the last complete one.

torchrun (`--max-restarts`) and SLURM (`--requeue`) run the same command again. A first start never resumes by itself
from the checkpoints that an earlier run left in the folder; `--resume_from_checkpoint true` does.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

from accelerate.utils import gather_object
from transformers import TrainingArguments

RESTART_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")


def choose_checkpoint(training: TrainingArguments) -> str | bool | None:
    """The `resume_from_checkpoint` for `Trainer.train`; all ranks call this and get the same.

    Only some nodes count a restart, and a killed rank may have left a half-written checkpoint. So a run counts as
    restarted if any rank says so, and a checkpoint as complete if all ranks see it complete.

    Returns the path of a checkpoint, True for the Trainer's own choice, or None for a first start.
    """
    asked = training.resume_from_checkpoint
    if asked is not None:
        return True if str(asked).lower() == "true" else asked
    restarted = any(os.environ.get(name, "0") != "0" for name in RESTART_COUNTS)
    answers = gather_object([(restarted, complete_steps(training))])
    steps = set.intersection(*(steps for _, steps in answers))
    if not steps or not any(restarted for restarted, _ in answers):
        return None
    return str(Path(str(training.output_dir), f"checkpoint-{max(steps)}"))


def complete_steps(training: TrainingArguments) -> set[int]:
    """The steps whose checkpoints are complete, as far as this rank can see."""
    random_state = "rng_state.pth" if training.world_size == 1 else f"rng_state_{training.process_index}.pth"
    folders = Path(str(training.output_dir)).glob("checkpoint-*")
    return {
        int(folder.name.removeprefix("checkpoint-"))
        for folder in folders
        # A rank writes its random state after model and optimizer, and the first rank then writes the trainer's state.
        if zipfile.is_zipfile(folder / random_state) and _is_json(folder / "trainer_state.json")
    }


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
