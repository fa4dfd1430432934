"""A gradient of zero is said: a step without one teaches nothing, and its loss does not show it."""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback, TrainerState

logger = logging.getLogger(__name__)


class ZeroGradientCallback(TrainerCallback):
    """Warns of every logged step whose gradient norm is 0, on the first rank; it reads what the Trainer logs anyway."""

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Look at the norm that the Trainer has logged."""
        if state.is_world_process_zero and kwargs["logs"].get("grad_norm") == 0:
            logger.warning(
                "step %d: the norm of the gradient is 0, so this step taught nothing; is the loss independent of the "
                "trainable parameters?",
                state.global_step,
            )
