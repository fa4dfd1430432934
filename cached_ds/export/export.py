"""Export: one checkpoint, or the folder of a whole run, as the folder that `save_pretrained` would have written.

The model is made on the meta device, for its names alone; its tensors come from the checkpoint (weights.py). So no GPU
and no engine is needed, and one copy of the weights is the most that is held. All is written into a sibling of the
target, which gets the target's name once it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, CONFIG_NAME, GENERATION_CONFIG_NAME

from cached_ds.checkpoints.manifest import MANIFEST, fault
from cached_ds.export.model_card import model_card
from cached_ds.export.weights import read_weights
from cached_ds.provenance.record import read_record, write_record


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        model: the class of the model; "adapter" for the adapter of a PEFT model.
        tensors: how many; of tied weights, one counts.
        dtypes: their types, such as float32.
    """

    model: str
    tensors: int
    dtypes: tuple[str, ...]


def export(checkpoint: str | Path, out: str | Path) -> Exported:
    """Write the model of a checkpoint as a plain Hugging Face folder, with tokenizer, generation config and model card.

    The adapter of a PEFT model is written as PEFT saves it.

    Args:
        checkpoint: `RUN/checkpoint-N` of any engine, or RUN itself, where the trained model was saved.
        out: a folder that does not exist or is empty; it appears when it is complete.

    Raises:
        ValueError: no folder, a checkpoint that is not whole, no weights in it, a target that is taken.
        MissingExtra: shards of ZeRO, and DeepSpeed is not installed.
    """
    folder, target = Path(checkpoint).absolute(), Path(out).absolute()
    is_checkpoint = _check_source(folder)
    with _appearing(target) as staging:
        if (folder / ADAPTER_CONFIG_NAME).is_file():
            written = _copy_adapter(folder, staging)
        else:
            written = _write_model(folder, staging, may_unpickle=is_checkpoint)
        if (folder / "tokenizer_config.json").is_file():
            AutoTokenizer.from_pretrained(folder).save_pretrained(staging)
        record = read_record(folder)
        if record:
            write_record(staging, record)
        card = model_card(folder, record, name=target.name, model=written.model, dtypes=written.dtypes)
        (staging / "README.md").write_text(card, encoding="utf-8")
    return written


def _check_source(folder: Path) -> bool:
    """Whether the folder is a checkpoint, whose manifest then holds; the folder of a run has none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    is_checkpoint = folder.name.startswith("checkpoint-") or (folder / MANIFEST).is_file()
    if is_checkpoint and (phrase := fault(folder)) is not None:
        raise ValueError(f"{folder} is not a whole checkpoint: {phrase}; export another one of the run")
    return is_checkpoint


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write into; it becomes `target` at the end, or is gone after an error."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"{target} is there already; allowed is a folder that does not exist or is empty")
    if not target.parent.is_dir():
        raise ValueError(f"{target}: the folder {target.parent}, in which it is to stand, does not exist")
    staging = target.with_name(f".{target.name}.{os.getpid()}")
    staging.mkdir()
    try:
        yield staging
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_model(folder: Path, staging: Path, *, may_unpickle: bool) -> Exported:
    model = _empty_model(folder)
    tensors = read_weights(folder, model, may_unpickle=may_unpickle)
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    written = Exported(type(model).__name__, len(tensors), tuple(dtypes))
    model.save_pretrained(staging, state_dict=tensors)
    return written


def _empty_model(folder: Path) -> PreTrainedModel:
    """The model that the checkpoint's config describes, without memory for its weights."""
    if not (folder / CONFIG_NAME).is_file():
        raise ValueError(f"{folder}: it holds no {CONFIG_NAME}, which says what model its weights are of")
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config, dtype=config.dtype)
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _copy_adapter(folder: Path, staging: Path) -> Exported:
    weights = folder / ADAPTER_SAFE_WEIGHTS_NAME
    dtypes: list[str] = []
    if weights.is_file():
        with safe_open(weights, framework="pt") as opened:
            dtypes = [str(opened.get_tensor(name).dtype).removeprefix("torch.") for name in opened.keys()]  # noqa: SIM118
    if not dtypes:
        raise ValueError(
            f"{folder}: it holds the shards of an adapter, which only the run puts together; export the run's "
            "--output_dir, or train with stage3_gather_16bit_weights_on_model_save"
        )
    for name in (ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME):
        shutil.copyfile(folder / name, staging / name)
    return Exported("adapter", len(dtypes), tuple(sorted(set(dtypes))))
