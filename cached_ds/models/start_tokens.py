"""Start tokens: generation begins with the token from which training begins.

Training shifts the labels to the right, behind the config's start token or, for mBART, behind the labels' own language
code. Generation takes its start from the generation config, which may say otherwise: mBART's says `</s>`, or nothing.
A model trained from one and generating from the other writes nonsense, without a word. So the start of generation is
set to that of training, and a token that generation is forced to begin with to that which all summaries begin with.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cached_ds.models.token_ids import Frame

logger = logging.getLogger(__name__)


def agree_on_start(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the start and the forced first token of generation, in both of the model's configs, to those of training.

    Raises:
        ValueError: the model says from which token training starts neither by its config nor by its labels.
    """
    frame = Frame.of(tokenizer, target=True)
    wanted: dict[str, int | None] = {"decoder_start_token_id": _training_start(model, frame)}
    forced = model.generation_config.forced_bos_token_id
    languages = getattr(tokenizer, "lang_code_to_id", {}).values()
    if frame.head and frame.head[0] in languages:
        wanted["forced_bos_token_id"] = frame.head[0]
    elif forced is not None and forced not in frame.head[:1]:
        wanted["forced_bos_token_id"] = None
    for name, value in wanted.items():
        before = getattr(model.generation_config, name)
        if before != value:
            logger.warning("generation: %s is %s, as in training, and not %s", name, value, before)
        setattr(model.generation_config, name, value)
        if hasattr(model.config, name):
            setattr(model.config, name, value)


def _training_start(model: Any, frame: Frame) -> int:
    """The first of the decoder's inputs that the model makes of labels."""
    labels = torch.tensor([[*frame.head, model.config.pad_token_id + 1, *frame.tail]])
    if model.config.model_type != "mbart" and getattr(model.config, "decoder_start_token_id", None) is None:
        raise ValueError(
            f"{model.config.name_or_path or 'the model'}: its config has no decoder_start_token_id, from which "
            "training starts; set it in config.json"
        )
    return int(model.prepare_decoder_input_ids_from_labels(labels.to(model.device))[0, 0])
