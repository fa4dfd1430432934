"""Saving: the Trainer's checkpoints appear whole, and it goes on only from whole ones.

transformers writes straight into `checkpoint-N`. Here it is told that the run's folder is another one while it writes,
which then becomes the checkpoint (checkpoints/commit.py); older ones are removed after that.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from transformers import Seq2SeqTrainer
from transformers.trainer_utils import TrainOutput, sort_checkpoints

from cached_ds.checkpoints.choice import NAME, TRAINING_STATE, WholeCheckpoint, checked, choose_checkpoint
from cached_ds.checkpoints.commit import committing, remove

PACKAGES = ("cached_ds", "torch", "transformers", "accelerate", "deepspeed")


class CommittedCheckpoints(Seq2SeqTrainer):
    """Mixin over the Trainer; see the module's docstring."""

    _staging: str | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train; True resumes from the newest whole checkpoint, or starts anew if there is none.

        Raises:
            ValueError: `resume_from_checkpoint` is no whole checkpoint.
        """
        found: WholeCheckpoint | None = None
        if isinstance(resume_from_checkpoint, str):
            found = checked(resume_from_checkpoint)
        elif resume_from_checkpoint:
            found = choose_checkpoint(self.args, True)
        return super().train(found, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial), f"{NAME}{self.state.global_step}")
        with committing(folder, facts=self._facts()) as written:
            self._staging = str(written.parent)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            if self.state.best_model_checkpoint == str(written):
                self.state.best_model_checkpoint = str(folder)
                if self.args.should_save:
                    self.state.save_to_json(str(written / TRAINING_STATE))
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        if self.args.should_save:
            self._remove_old(folder)

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Wait with the upload until the checkpoint is where it stays."""
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _remove_old(self, newest: Path) -> None:
        """Keep `save_total_limit` checkpoints, the newest and the best among them."""
        kept = {newest, Path(str(self.state.best_model_checkpoint))}
        found = [Path(name) for name in sort_checkpoints(str(newest.parent), use_mtime=True)]
        limit = self.args.save_total_limit
        surplus = len(found) - max(limit, len(kept & set(found))) if limit else 0
        for folder in [one for one in found if one not in kept][: max(0, surplus)]:
            remove(folder)

    def _facts(self) -> dict[str, Any]:
        """What the manifest says of this run."""
        versions = {name: importlib.metadata.version(name) for name in PACKAGES if _is_installed(name)}
        return {
            "step": self.state.global_step,
            "engine": self._engine(),
            "world_size": self.args.world_size,
            "versions": versions,
        }

    def _engine(self) -> str:
        if self.is_deepspeed_enabled:
            return f"zero{self.accelerator.state.deepspeed_plugin.zero_stage}"
        if self.is_fsdp_enabled:
            return "fsdp2"
        return "ddp" if self.args.world_size > 1 else "single"


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
