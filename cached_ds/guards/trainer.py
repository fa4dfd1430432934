"""Guarded: the mixin that lets the guards see each step of transformers' Trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Seq2SeqTrainer
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from cached_ds.attachment import windowed_encoder
from cached_ds.guards.finite import poisoned
from cached_ds.guards.memory import memory_faults
from cached_ds.guards.step import StepGuard

MAX_SKIPPED_STEPS = 3


class Guarded(Seq2SeqTrainer):
    """Mixin over the Trainer: hands losses and norms to the `StepGuard`, and names documents.

    A loss that is not finite is logged as NaN, with the number of steps that were skipped: not as 0, as transformers
    does with `logging_nan_inf_filter`, which is turned off (and with it a wait for the device in every micro-batch).
    `enable_jit_checkpoint` listens to SIGTERM and SIGUSR1; transformers' own callback, by which each rank saves when it
    has heard the signal, goes.

    Args:
        max_skipped_steps: so many steps in a row may be skipped because loss or gradient is not finite.
        place_of: where a row of the training data comes from, such as a file and a line; None: its number is all.
        **arguments: all other arguments of `Seq2SeqTrainer`.

    Raises:
        ValueError: `max_skipped_steps` below 0.
    """

    guard: StepGuard

    def __init__(
        self,
        *,
        max_skipped_steps: int = MAX_SKIPPED_STEPS,
        place_of: Callable[[int], str] | None = None,
        **arguments: Any,
    ) -> None:
        """Set the Trainer up, and add the guard after its own callbacks."""
        if max_skipped_steps < 0:
            raise ValueError(f"max_skipped_steps={max_skipped_steps} is refused; allowed is an integer >= 0")
        self._place_of = place_of
        super().__init__(**arguments)
        self.args.logging_nan_inf_filter = False
        if (theirs := self.pop_callback(JITCheckpointCallback)) is not None:
            theirs.on_train_end(self.args, self.state, self.control)  # it gives the signal back
        self.guard = StepGuard(self.accelerator, max_skipped_steps=max_skipped_steps, names=self.names_of_step)
        self.add_callback(self.guard)

    @property
    def stopped_by(self) -> str | None:
        """Name of the signal that ended training early, with a checkpoint; None: training is complete."""
        return self.guard.stopped_by

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's; a lack of memory is told with the documents, and a loss that is not finite is not added up."""
        self.guard.traces.begin(inputs)
        config = windowed_encoder(model)._cached_ds.config
        with memory_faults(self._said, config, batch_size=self.args.per_device_train_batch_size):
            loss = super().training_step(model, inputs, *args, **kwargs)
        return torch.nan_to_num(loss, nan=0.0, posinf=0.0, neginf=0.0)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The Trainer's; in training the guard looks at the loss."""
        found = super().compute_loss(model, inputs, *args, **kwargs)
        if not model.training:
            return found
        return (self.guarded(found[0]), *found[1:]) if isinstance(found, tuple) else self.guarded(found)

    def guarded(self, loss: Tensor) -> Tensor:
        """The scalar loss of this micro-batch, noted by the guard; one that is not finite gets a gradient of NaN."""
        if self.guard.traces.found:
            self.guard.traces.found[-1].loss = loss.detach().isfinite()
        return poisoned(loss)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's; the loss of skipped steps is NaN."""
        if "loss" in logs and self.guard.unlogged:
            logs |= {"loss": math.nan, "skipped_steps": self.guard.unlogged}
            self.guard.unlogged = 0
        super().log(logs, *args, **kwargs)

    def rows_of_step(self) -> Sequence[Sequence[int]]:
        """Numbers of the rows of the training data in each micro-batch of this step and rank; empty: not known."""
        return ()

    def names_of_step(self) -> list[list[str]]:
        """Names of the documents in each micro-batch so far of this step and rank."""
        rows, traces = self.rows_of_step(), self.guard.traces.found
        named = []
        for number, trace in enumerate(traces):
            tokens = trace.tokens
            known: Sequence[int | None] = rows[number] if number < len(rows) else ()
            named.append([self._name(*each) for each in zip(known or [None] * len(tokens), tokens, strict=True)])
        return named

    def _name(self, row: int | None, tokens: int) -> str:
        if row is None:
            return f"a document of {tokens:,} tokens"
        return f"document {row} ({', '.join([*self._place(row), f'{tokens:,} tokens'])})"

    def _place(self, row: int) -> list[str]:
        data: Any = self.train_dataset
        has_id = "id" in getattr(data, "column_names", ())
        return [*([f"id {data[row]['id']}"] if has_id else []), *([self._place_of(row)] if self._place_of else [])]

    def _said(self) -> str:
        documents = self.names_of_step()[-1]
        return f"step {self.state.global_step + 1}, rank {self.args.process_index}, {', '.join(documents)}"

    def _get_grad_norm(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, which the guard gets to know."""
        self.guard.norm = super()._get_grad_norm(model, *args, **kwargs)
        return self.guard.norm
