"""Generation settings: with what a run's summaries are generated, so that its figures can be compared with others.

The flags come first, then the model's own generation config (4 beams for bart-large-cnn), then transformers' defaults.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, Seq2SeqTrainingArguments

# What summaries depend on, with what transformers takes where neither the flags nor the model say anything.
DEFAULTS: dict[str, Any] = {
    "num_beams": 1,
    "max_length": 20,
    "max_new_tokens": None,
    "min_length": 0,
    "min_new_tokens": None,
    "no_repeat_ngram_size": 0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "early_stopping": False,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "do_sample": False,
}
OF_SAMPLES: dict[str, Any] = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}


def generation_settings(model: PreTrainedModel, training: Seq2SeqTrainingArguments) -> dict[str, Any]:
    """The settings in use as `generation_num_beams` and so on; those that are not set are left out.

    Args:
        model: as the Trainer has it, which reads `--generation_config` into it.
        training: the arguments of the run.
    """
    flags = {"num_beams": training.generation_num_beams, "max_length": training.generation_max_length}
    own = {name: getattr(model.generation_config, name, None) for name in DEFAULTS | OF_SAMPLES}
    known = DEFAULTS | (OF_SAMPLES if own["do_sample"] else {})
    settings = {name: _first(flags.get(name), own[name], default) for name, default in known.items()}
    return {f"generation_{name}": value for name, value in settings.items() if value is not None}


def _first(*values: Any) -> Any:
    """The first that is set; a list of tokens as text, since the Trainer prints metrics as one word each."""
    found = next((value for value in values if value is not None), None)
    return str(found) if isinstance(found, list) else found
