"""Training checks: values of the training arguments that transformers takes as they come, and that cannot work.

NaN or infinity would be noticed after the first step, a batch size of 0 in the data loader, an accumulation of 0 never,
a metric that does not exist after the first evaluation, a missing package when the model is there.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import SchedulerType, Seq2SeqTrainer, Seq2SeqTrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.training_args import OptimizerNames
from transformers.utils import is_liger_kernel_available

from cached_ds.settings.unknown_names import unknown
from cached_ds.training.document_groups import ranks_per_document

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
    "step_timeout": (0, math.inf),
    "dataloader_num_workers": (0, math.inf),
    "generation_max_length": (1, math.inf),
    "generation_num_beams": (1, math.inf),
    "neftune_noise_alpha": (0, math.inf),
}
# Name -> all that may be in its list.
MEMBERS = {"label_names": ("labels",), "include_for_metrics": ("inputs", "loss")}
MAPPINGS = ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs", "lr_scheduler_kwargs")

TIMES = ("runtime", "samples_per_second", "steps_per_second")  # transformers adds them to every evaluation


def check_flags(values: Mapping[str, Any]) -> None:
    """Refuse numbers that cannot work, and a file that would not be read.

    Args:
        values: of flags, by name, before transformers has made anything of them.

    Raises:
        ValueError: the first of them, with what is allowed.
    """
    for name, (low, high) in BOUNDS.items():
        value: Any = values.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and not (math.isfinite(value) and low <= value < high):
            allowed = f"a number >= {low}" + (f" and < {high}" if high < math.inf else "")
            raise ValueError(f"--{name} {value} is refused; allowed is {allowed}")
    if values.get("fsdp_config") is not None and not values.get("fsdp"):
        raise ValueError("--fsdp_config without --fsdp is refused: it would not be read")


def check_training(training: Seq2SeqTrainingArguments) -> None:
    """Refuse what transformers would ignore or notice late, and reports by a package that is not installed.

    Raises:
        ValueError: the first of them, with what is allowed; values that a DeepSpeed file contradicts.
    """
    for name, members in MEMBERS.items():
        for value in getattr(training, name) or ():
            if value not in members:
                raise ValueError(f"--{name} {value} is refused; allowed is {' or '.join(members)}")
    for name in MAPPINGS:
        if not isinstance(value := getattr(training, name), dict | None):
            raise ValueError(f"--{name} {value} is refused; allowed is a JSON mapping")
    config: Any = training.accelerator_config
    for switch in dataclasses.fields(config):
        value = getattr(config, switch.name)
        if "bool" in str(switch.type) and not isinstance(value, bool | None):
            raise ValueError(f"--accelerator_config: {switch.name}={value!r} is refused; allowed is true or false")
    if training.eval_on_start and not training.do_eval:
        raise ValueError("--eval_on_start without --do_eval is refused: nothing would be there to evaluate on")
    _check_loader(training)
    _check_packages(training)
    _check_generation_config(training)
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
    """Refuse an optimizer that is not installed, or not for this machine, and arguments that it or the schedule lacks.

    Raises:
        ValueError: the flag, with the reason that transformers or torch gives.
    """
    name = OptimizerNames(training.optim).value
    try:
        chosen = Seq2SeqTrainer.get_optimizer_cls_and_kwargs(training, model)  # type: ignore[arg-type]  # any module does
    except (ImportError, ValueError, AssertionError) as error:
        raise ValueError(f"--optim {name} is refused: {error}") from error
    without = copy.copy(training)
    without.optim_args = None
    if training.optim_args and chosen == Seq2SeqTrainer.get_optimizer_cls_and_kwargs(without, model):  # type: ignore[arg-type]
        raise ValueError(f"--optim_args {training.optim_args} is refused: --optim {name} takes none of it")
    schedule, mapping = training.lr_scheduler_type, cast(dict[str, Any] | None, training.lr_scheduler_kwargs)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    try:
        get_scheduler(schedule, optimizer, num_warmup_steps=1, num_training_steps=10, scheduler_specific_kwargs=mapping)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"--lr_scheduler_type {SchedulerType(schedule).value} with --lr_scheduler_kwargs {mapping} is refused: "
            f"{error}"
        ) from error


def check_deepspeed_steps(training: Seq2SeqTrainingArguments, model: nn.Module, *, documents: int) -> None:
    """Refuse numbers of steps in a DeepSpeed config that contradict the flags; the Trainer would when training starts.

    Args:
        training: the arguments of the run.
        model: the model, whose width fills in what the config leaves to it.
        documents: the training documents.

    Raises:
        ValueError: the keys, their values, and those of the flags.
    """
    config: Any = getattr(training, "hf_deepspeed_config", None)
    if config is None:
        return
    steps = training.max_steps if training.max_steps > 0 else _steps_of_epochs(training, model, documents)
    try:
        copy.deepcopy(config).trainer_config_finalize(training, model, steps)
    except ValueError as error:
        raise ValueError(f"--deepspeed {_shown(training.deepspeed)}: {_one_line(error)}") from error


def _steps_of_epochs(training: Seq2SeqTrainingArguments, model: nn.Module, documents: int) -> int:
    """What `Trainer.set_initial_training_values` will find; but making a Trainer makes the output folder."""
    rounded = math.floor if training.dataloader_drop_last else math.ceil
    readers = training.world_size // ranks_per_document(model)
    batches = rounded(documents / (training.train_batch_size * readers))
    return math.ceil(training.num_train_epochs * max(1, math.ceil(batches / training.gradient_accumulation_steps)))


def _check_generation_config(training: Seq2SeqTrainingArguments) -> None:
    """Refuse generation settings that cannot be read; transformers would read them when the output folder is there."""
    if (given := training.generation_config) is None:
        return
    try:
        Seq2SeqTrainer.load_generation_config(cast(str, given))
    except (OSError, ValueError) as error:
        raise ValueError(f"--generation_config {given} is refused: {_one_line(error)}") from error


def _check_loader(training: Seq2SeqTrainingArguments) -> None:
    """Refuse what a data loader cannot be made of; transformers would make one when all else is ready."""
    names = ("num_workers", "prefetch_factor", "persistent_workers", "multiprocessing_context")
    options: dict[str, Any] = {name: getattr(training, f"dataloader_{name}") for name in names}
    try:
        DataLoader([0], **options)  # type: ignore[arg-type]  # a list does
    except ValueError as error:
        shown = " ".join(
            f"--dataloader_{name} {value}" for name, value in options.items() if value not in (None, False)
        )
        raise ValueError(f"{shown} is refused: {_one_line(error)}") from error


def _check_packages(training: Seq2SeqTrainingArguments) -> None:
    """Refuse kernels and reports of what is not installed; transformers would raise when all else is ready."""
    if training.use_liger_kernel and not is_liger_kernel_available():
        raise _not_installed("--use_liger_kernel", "liger-kernel")
    for name in training.report_to or ():
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"--report_to: {unknown(name, INTEGRATION_TO_CALLBACK, kind='reporter')}")
        if name not in get_available_reporting_integrations():
            raise _not_installed(f"--report_to {name}", name)


def _not_installed(flag: str, package: str) -> ValueError:
    return ValueError(f"{flag} is refused: {package} is not installed; leave the flag out, or install it")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _shown(deepspeed: Any) -> str:
    return deepspeed if isinstance(deepspeed, str) else "(given as values)"
