"""Shapes: models without pretrained weights, by names such as `tiny-bart` or `xlarge-t5`.

They serve quick starts, tests and benchmarks; a pretrained model is given by `--model_name_or_path`.
"""

from __future__ import annotations

from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from cached_ds.models.families import FAMILIES
from cached_ds.models.sizes import SIZES
from cached_ds.settings.unknown_names import unknown


def shapes() -> list[str]:
    """The names of all shapes: every size of every family."""
    return [f"{size}-{family}" for size in SIZES for family in FAMILIES]


def is_shape(name: str) -> bool:
    """Whether `name` is meant as a shape: whether it begins with a size."""
    return name.split("-")[0] in SIZES


def family_name(name: str) -> str:
    """The family of a shape.

    Raises:
        ValueError: no such shape; the message names the nearest.
    """
    if name not in shapes():
        raise ValueError(unknown(name, shapes(), kind="built-in shape"))
    return name.split("-", 1)[1]


def make_config(name: str, tokenizer: PreTrainedTokenizerBase, *, positions: int) -> PretrainedConfig:
    """The config of a shape for a tokenizer; its encoder and decoder know `positions` positions.

    Raises:
        ValueError: no such shape; the message names the nearest.
    """
    model_type = family_name(name)
    family = FAMILIES[model_type]
    fields = family.config_fields(SIZES[name.split("-")[0]], positions)
    ids = {f"{token}_token_id": getattr(tokenizer, f"{token}_token_id") for token in ("pad", "bos", "eos")}
    ids["decoder_start_token_id"] = ids[f"{family.decoder_start}_token_id"]
    return AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **fields, **ids)
