"""Step guard: what follows, on all ranks alike, from what any of them has noticed in a step.

A step has one round (rounds.py), after its backward and before its update:

1. Loss or gradient is not finite: the step is skipped (finite.py) and its cause is told. After `max_skipped_steps`
   skipped ones in a row another one ends the run: what fails every time is not a bad document.
2. A signal has come to any rank: at the step's end all ranks save a checkpoint and end training, without evaluation.
3. The file `save_now` was there: at the step's end all ranks save a checkpoint, and go on.

The number of collectives of a step does not depend on what happens, except that the ranks, who all know by then that
the step is bad, exchange its causes.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from cached_ds.guards import finite, rounds
from cached_ds.guards.faults import TrainingFault
from cached_ds.guards.requests import Requests, take_save_now
from cached_ds.guards.traces import Traces

logger = logging.getLogger(__name__)
NAMED = 8  # causes in one sentence
UNKNOWN = "losses, encoder states and their gradients are finite, the gradient of a weight is not"


class StepGuard(TrainerCallback):
    """The callback of one Trainer, which hands it losses and norms.

    Attributes:
        norm: of this step's reduced gradient, as the Trainer has it.
        traces: of this step's micro-batches.
        stopped_by: name of the signal that ended training; None: none did.
        unlogged: steps skipped since the Trainer last logged a loss.
    """

    def __init__(
        self, accelerator: Accelerator, *, max_skipped_steps: int, names: Callable[[], Sequence[Sequence[str]]]
    ) -> None:
        """Guard the steps of this accelerator.

        Args:
            accelerator: of the Trainer.
            max_skipped_steps: in a row; one more ends the run.
            names: gives the names of the documents of this step's micro-batches.
        """
        self.accelerator, self.max_skipped_steps, self.names = accelerator, max_skipped_steps, names
        self.norm: Tensor | float | None = None
        self.traces, self.requests = Traces(), Requests()
        self.round = rounds.Round(loss=False, norm=False, signal=0, save=False)
        self.skipped = self.unlogged = 0
        self.stopped_by: str | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Begin to look at encoder states, and to listen."""
        self.skipped, self.stopped_by = 0, None
        self.traces.watch(kwargs["model"])
        if args.enable_jit_checkpoint:
            self.requests.listen()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Leave model and signals as they were."""
        self.traces.stop()
        self.requests.restore()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Forget the micro-batches of the step before."""
        self.traces.found.clear()

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Share what this rank knows; skip a bad step."""
        optimizer = kwargs["optimizer"]
        self.round = rounds.share(
            loss=self.traces.any_loss(),
            norm=False if self._is_scaled(optimizer) else finite.is_bad(self.norm),
            signal=self.requests.signal,
            save=args.process_index == 0 and take_save_now(str(args.output_dir)),
            device=args.device,
        )
        optimizer._is_overflow = self.round.loss or self.round.norm  # accelerate's word for a step that is skipped
        if not optimizer._is_overflow:
            self.skipped = 0
            return
        optimizer.zero_grad()
        self.skipped += 1
        self.unlogged += 1
        self._tell(state.global_step + 1, rank=args.process_index)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Save, or save and end, if anybody asked for it."""
        if self.round.save or self.round.signal:
            control.should_save = True
        if self.round.signal:
            control.should_training_stop, control.should_evaluate = True, False
            self.stopped_by = signal.Signals(self.round.signal).name
            logger.warning(
                "step %d: %s has come, so training ends with a checkpoint", state.global_step, self.stopped_by
            )

    def on_epoch_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Nothing more after the step that ended training: it has saved."""
        if self.stopped_by:
            control.should_save = control.should_evaluate = False

    def _is_scaled(self, optimizer: Any) -> bool:
        """Whether a loss scaler searches its scale by overflows: accelerate's or DeepSpeed's."""
        return self.accelerator.scaler is not None or getattr(optimizer.optimizer, "dynamic_loss_scale", False)

    def _tell(self, step: int, *, rank: int) -> None:
        """Say why the step is skipped or, if it is one too many, end the run.

        Raises:
            TrainingFault: on all ranks.
        """
        found: list[str] = gather_object([f"rank {rank}, {each}" for each in self._causes()])
        more = f"; {len(found) - NAMED} more" if len(found) > NAMED else ""
        why = "; ".join(found[:NAMED]) + more or UNKNOWN
        what = f"step {step}: loss or gradient is not finite"
        if not self.accelerator.optimizer_step_was_skipped:
            raise TrainingFault(
                f"{what}, and DeepSpeed has updated the parameters with it ({why}); nothing was saved since. Use ZeRO, "
                "and leave bf16.check_grad_overflow at true: then such steps are skipped"
            )
        if self.skipped > self.max_skipped_steps:
            raise TrainingFault(
                f"{what}, {self.skipped} times in a row; allowed is --max_skipped_steps {self.max_skipped_steps} "
                f"({why}). None of these steps has changed a parameter: look at the documents, or lower "
                "--learning_rate, and go on from the last checkpoint with --resume_from_checkpoint true"
            )
        logger.warning("step %d is skipped, its loss or gradient is not finite: %s", step, why)

    def _causes(self) -> list[str]:
        return finite.causes(self.traces.found, self.names())
