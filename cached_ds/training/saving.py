"""Saving: the Trainer's checkpoints and model appear whole, and it goes on only from whole checkpoints.

transformers writes straight into `checkpoint-N`. Here it is told that the run's folder is another one while it writes,
which then becomes the checkpoint (checkpoints/commit.py); older ones are removed after that. The model is written
aside, too, and then takes the place of an earlier one (checkpoints/replacing.py).

What another engine or another number of ranks has written is put in place once the engine is there
(checkpoints/elastic.py); transformers would train on with a fresh optimizer, or end.
"""

from __future__ import annotations

import importlib.metadata
import logging
import time
import uuid
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import broadcast_object_list
from transformers import Seq2SeqTrainer
from transformers.trainer import SCHEDULER_NAME
from transformers.trainer_utils import TrainOutput, sort_checkpoints

from cached_ds.attachment import inner_model
from cached_ds.checkpoints import elastic, manifest
from cached_ds.checkpoints.choice import NAME, TRAINING_STATE, WholeCheckpoint, checked, choose_checkpoint
from cached_ds.checkpoints.commit import committing, remove
from cached_ds.checkpoints.replacing import replacing, replacing_alone
from cached_ds.guards.faults import TrainingFault
from cached_ds.training.document_groups import ranks_per_document

logger = logging.getLogger(__name__)
PACKAGES = ("cached_ds", "torch", "transformers", "accelerate", "deepspeed")


class CommittedCheckpoints(Seq2SeqTrainer):
    """Mixin over the Trainer; see the module's docstring."""

    _staging: str | None = None
    _foreign: WholeCheckpoint | None = None
    order: tuple[int, int] | None = None  # documents of a reader at a time, and readers, when the run began
    run: str | None = None  # names the run, on all ranks and in all of its checkpoints

    @property
    def num_readers(self) -> int:
        """Number of ranks, or of groups of ranks that share documents."""
        return self.args.world_size // ranks_per_document(cast(Any, self.model))

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
        self.check_checkpoint(found)
        if found is not None:
            self._tell_origin(found)
        return super().train(found, *args, **kwargs)

    def check_checkpoint(self, checkpoint: WholeCheckpoint | None) -> None:
        """Take over what was decided when the run began, and see whether the engine itself can read the checkpoint.

        A collective.

        Raises:
            ValueError: the run cannot go on from there with the same numbers.
        """
        self._foreign, self.order = None, (self.args.train_batch_size, self.num_readers)
        self.run = self.run or _new_name()
        if checkpoint is not None:
            saved, here = manifest.read(Path(checkpoint)), self._facts()
            elastic.check(checkpoint, saved, here)
            self.order, self.run = tuple(saved["order"]), saved.get("run", self.run)
            self._foreign = None if elastic.is_native(saved, here) else checkpoint

    def _tell_origin(self, checkpoint: WholeCheckpoint) -> None:
        saved, here = manifest.read(Path(checkpoint)), self._facts()
        if any(saved[name] != here[name] for name in ("engine", "world_size")):
            logger.warning(
                "%s was written under %s on %d ranks: random numbers, such as those of dropout, begin anew",
                checkpoint, saved["engine"], saved["world_size"],
            )  # fmt: skip

    def _load_from_checkpoint(self, *arguments: Any) -> None:
        if self._foreign is None:
            super()._load_from_checkpoint(*arguments)

    def _prepare_for_training(self, *arguments: Any) -> Any:
        if (foreign := self._foreign) is None:
            return super()._prepare_for_training(*arguments)
        max_steps, loader, _ = arguments
        prepared = super()._prepare_for_training(max_steps, loader, None)
        self._restore(Path(foreign))
        return prepared

    def _restore(self, folder: Path) -> None:
        """Put weights, moments and the schedule of a foreign checkpoint into the engine."""
        saved, model = manifest.read(folder), cast(Any, inner_model(self.model))
        if (name := _name_of(self.optimizer)) != saved["optimizer"]:
            raise TrainingFault(
                f"{folder} is of a run with the optimizer {saved['optimizer']}, and this one has {name}"
            )
        optimizer, scheduler = cast(Any, self.optimizer), cast(Any, self.lr_scheduler)
        with elastic.saved_state(folder, saved, model, self._in_order(model)) as state:
            if self.is_deepspeed_enabled:
                from cached_ds.checkpoints import zero_state  # DeepSpeed is an extra

                zero_state.fill(self.model_wrapped, state)
            else:
                elastic.fill(model, optimizer.optimizer, state)
        scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))

    def _in_order(self, model: Any) -> list[str]:
        """The names of the trained parameters in the order in which `create_optimizer` puts them into groups."""
        decayed = set(self.get_decay_parameter_names(model))
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        return sorted(trained, key=lambda name: name not in decayed)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the whole model, even where checkpoints are sharded; the plain Trainer would write nothing then.

        Killed meanwhile, it leaves the earlier model, or none that can be loaded. All ranks call this under ZeRO and
        FSDP2; otherwise one may do it alone.

        Args:
            output_dir: the folder; None: the run's own.
        """
        if self._staging is not None:
            self._save_in_checkpoint(str(output_dir))
            return
        folder = Path(output_dir or str(self.args.output_dir))
        if self.is_deepspeed_enabled or self.is_fsdp_enabled or self.args.save_on_each_node:
            with replacing(folder) as written:
                self._save_whole(str(written))
        elif self.args.should_save:
            with replacing_alone(folder) as written:
                self._save_whole(str(written))
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_whole(self, folder: str) -> None:
        if self.is_fsdp_enabled:
            self._save(folder, state_dict=self.accelerator.get_state_dict(self.model))
        else:
            super().save_model(folder, _internal_call=True)

    def _save_in_checkpoint(self, folder: str) -> None:
        """A sharded one gets the configs and the tokenizer too: without them nobody knows what its shards are of."""
        super().save_model(folder, _internal_call=True)
        if self.is_fsdp_enabled and self.args.should_save:
            inner = cast(Any, inner_model(self.model))
            for part in (inner.config, inner.generation_config, self.processing_class):
                if part is not None:
                    part.save_pretrained(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder, begin = Path(self._get_output_dir(trial), f"{NAME}{self.state.global_step}"), time.monotonic()
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
        if self.is_world_process_zero():
            size = sum(entry["bytes"] for entry in manifest.read(folder)["files"].values())
            logger.info("%s: %.3f GB in %.1f s", folder.name, size / 1e9, time.monotonic() - begin)
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
            "run": self.run,
            "step": self.state.global_step,
            "engine": self._engine(),
            "world_size": self.args.world_size,
            "order": self.order,
            "documents_per_step": self._train_batch_size * self.args.gradient_accumulation_steps * self.num_readers,
            "optimizer": _name_of(self.optimizer),
            "versions": versions,
        }

    def _engine(self) -> str:
        if self.is_deepspeed_enabled:
            return f"zero{self.accelerator.state.deepspeed_plugin.zero_stage}"
        if self.is_fsdp_enabled:
            return "fsdp2"
        return "ddp" if self.args.world_size > 1 else "single"


def _new_name() -> str:
    """The same on all ranks; a collective."""
    names = [uuid.uuid4().hex]
    broadcast_object_list(names)
    return names[0]


def _name_of(optimizer: Any) -> str:
    """The class of an optimizer, whatever accelerate and DeepSpeed have put around it; "" where there is none yet."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return "" if optimizer is None else f"{type(optimizer).__module__}.{type(optimizer).__name__}"


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
