"""Training checks: numbers of the training arguments that transformers takes as they come, and that cannot work.

NaN or infinity would be noticed after the first step, a batch size of 0 in the data loader, an accumulation of 0 never.
"""

from __future__ import annotations

import math
from typing import Any

from transformers import Seq2SeqTrainingArguments

# Name -> the least value and the first that is too large; all must be finite.
BOUNDS: dict[str, tuple[float, float]] = {
    "learning_rate": (0, math.inf),
    "num_train_epochs": (0, math.inf),
    "max_steps": (-1, math.inf),
    "warmup_steps": (0, math.inf),
    "weight_decay": (0, math.inf),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, math.inf),
    "max_grad_norm": (0, math.inf),
    "label_smoothing_factor": (0, 1),
    "per_device_train_batch_size": (1, math.inf),
    "per_device_eval_batch_size": (1, math.inf),
    "gradient_accumulation_steps": (1, math.inf),
    "eval_accumulation_steps": (1, math.inf),
    "logging_steps": (0, math.inf),
    "save_steps": (0, math.inf),
    "eval_steps": (0, math.inf),
    "save_total_limit": (1, math.inf),
    "seed": (0, 2**32),
    "data_seed": (0, 2**32),
    "ddp_timeout": (1, math.inf),
    "dataloader_num_workers": (0, math.inf),
    "generation_max_length": (1, math.inf),
    "generation_num_beams": (1, math.inf),
}


def check_training(training: Seq2SeqTrainingArguments) -> None:
    """Refuse numbers that cannot work.

    Raises:
        ValueError: the first of them, with what is allowed; values that a DeepSpeed file contradicts.
    """
    for name, (low, high) in BOUNDS.items():
        value: Any = getattr(training, name, None)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and not (math.isfinite(value) and low <= value < high):
            allowed = f"a number >= {low}" + (f" and < {high}" if high < math.inf else "")
            raise ValueError(f"--{name} {value} is refused; allowed is {allowed}")
    if mismatches := getattr(getattr(training, "hf_deepspeed_config", None), "mismatches", []):
        raise ValueError(
            f"--deepspeed {_shown(training.deepspeed)} contradicts the flags: {'; '.join(mismatches)}; set these to "
            '"auto" in the file'
        )


def _shown(deepspeed: Any) -> str:
    return deepspeed if isinstance(deepspeed, str) else "(given as values)"
