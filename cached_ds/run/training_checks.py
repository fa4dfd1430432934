"""Training checks: values of the training arguments that transformers takes as they come, and that cannot work.

NaN or infinity would be noticed after the first step, a batch size of 0 in the data loader, an accumulation of 0 never,
a metric that does not exist after the first evaluation, a missing package when the model is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames

from cached_ds.settings.unknown_names import unknown

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

TIMES = ("runtime", "samples_per_second", "steps_per_second")  # transformers adds them to every evaluation


def check_training(training: Seq2SeqTrainingArguments) -> None:
    """Refuse numbers that cannot work, and reports by a package that is not installed.

    Raises:
        ValueError: the first of them, with what is allowed; values that a DeepSpeed file contradicts.
    """
    for name, (low, high) in BOUNDS.items():
        value: Any = getattr(training, name, None)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and not (math.isfinite(value) and low <= value < high):
            allowed = f"a number >= {low}" + (f" and < {high}" if high < math.inf else "")
            raise ValueError(f"--{name} {value} is refused; allowed is {allowed}")
    _check_reporters(training)
    if mismatches := getattr(getattr(training, "hf_deepspeed_config", None), "mismatches", []):
        raise ValueError(
            f"--deepspeed {_shown(training.deepspeed)} contradicts the flags: {'; '.join(mismatches)}; set these to "
            '"auto" in the file'
        )


def check_metric(training: Seq2SeqTrainingArguments, metrics: Iterable[str]) -> None:
    """Refuse a metric by which the best checkpoint is to be chosen, and which no evaluation will give.

    Args:
        training: the arguments of the run.
        metrics: what `compute_metrics` gives; the loss and the times are there without it.

    Raises:
        ValueError: `--metric_for_best_model`, with the nearest metric.
    """
    known, asked = {"loss", *TIMES, *metrics}, training.metric_for_best_model
    if asked is not None and asked.removeprefix("eval_") not in known:
        hint = "" if training.predict_with_generate else "; ROUGE needs --predict_with_generate"
        raise ValueError(f"--metric_for_best_model: {unknown(asked, known, kind='metric')}{hint}")


def check_optimizer(training: Seq2SeqTrainingArguments, model: nn.Module) -> None:
    """Refuse an optimizer that is not installed, or not for this machine, before the training starts.

    Raises:
        ValueError: `--optim`, with the reason that transformers gives.
    """
    try:
        Seq2SeqTrainer.get_optimizer_cls_and_kwargs(training, model)  # type: ignore[arg-type]  # any module does
    except (ImportError, ValueError, AssertionError) as error:
        raise ValueError(f"--optim {OptimizerNames(training.optim).value} is refused: {error}") from error


def _check_reporters(training: Seq2SeqTrainingArguments) -> None:
    """Refuse a report to what is not installed; transformers would raise when all else is ready."""
    for name in training.report_to or ():
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"--report_to: {unknown(name, INTEGRATION_TO_CALLBACK, kind='reporter')}")
        if name not in get_available_reporting_integrations():
            raise ValueError(
                f"--report_to {name} is refused: {name} is not installed; leave the flag out, or install it"
            )


def _shown(deepspeed: Any) -> str:
    return deepspeed if isinstance(deepspeed, str) else "(given as values)"
