"""Build: the tokenizer, the data and the model of a run, from its arguments."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Seq2SeqTrainingArguments,
)

from cached_ds.attachment import attach
from cached_ds.data import DataArguments, keep_prefixes, load_splits, tokenize_splits, train_tokenizer
from cached_ds.data.sources.local_files import location_of
from cached_ds.models.families import decoder_positions, usual_reading
from cached_ds.models.hub import check_source
from cached_ds.models.languages import choose_languages
from cached_ds.models.shapes import family_name, is_shape, make_config
from cached_ds.models.token_ids import Frame
from cached_ds.run.arguments import Arguments, ModelArguments

logger = logging.getLogger(__name__)
WANTED_SPLITS = {"train": "do_train", "validation": "do_eval", "test": "do_predict"}
TOKENIZER_TRAINING_CHARACTERS = 20_000_000  # enough text for a vocabulary; a corpus of books would take hours


def build_data(arguments: Arguments) -> tuple[DatasetDict, PreTrainedTokenizerBase]:
    """Tokenized splits and their tokenizer; rank 0 prepares and caches them, the others read its cache.

    Raises:
        ValueError: what `check_source`, `load_splits` and `keep_prefixes` refuse; a split that is asked for but
            missing; segments of documents whose windows have no frame.
    """
    check_sources(arguments.model)
    with arguments.training.main_process_first(desc="loading the documents"):
        texts = load_splits(arguments.data)
    for split, flag in WANTED_SPLITS.items():
        if getattr(arguments.training, flag) and split not in texts:
            raise ValueError(f"--{flag} needs {split} documents; give --{split}_file, or a data set with that split")
        if getattr(arguments.training, flag) and not len(texts[split]):
            raise ValueError(f"--{flag} needs {split} documents; every row lacks a text in the columns that are read")
    tokenizer = build_tokenizer(arguments, texts)
    with arguments.training.main_process_first(desc="tokenizing the documents"):
        splits = tokenize_splits(texts, tokenizer=tokenizer, arguments=arguments.data)
    frame, window = Frame.of(tokenizer), arguments.cached.window
    check_prefixes(splits, arguments.data.files(), window=window, taken=frame.size + 2 * arguments.cached.overlap)
    if arguments.data.keep_prefix:
        with arguments.training.main_process_first(desc="repeating the prefixes"):
            splits = keep_prefixes(splits, frame=frame, window=window)
    if not arguments.cached.frame_windows and any("segment_lengths" in rows.column_names for rows in splits.values()):
        raise ValueError(
            "--frame_windows false is refused with --keep_prefix or --text_lists windows, which say what of a document "
            "is between its special tokens; allowed is true"
        )
    return splits, tokenizer


def check_sources(model: ModelArguments) -> None:
    """Refuse a model, config or tokenizer that can be had nowhere; built-in shapes are here.

    Raises:
        ValueError: what `check_source` refuses.
    """
    for flag in ("model_name_or_path", "config_name", "tokenizer_name"):
        name = getattr(model, flag)
        if name is not None and not (flag == "config_name" and is_shape(name)):
            check_source(name, flag=flag, **model.from_hub())


def check_prefixes(splits: DatasetDict, files: Mapping[str, Path], *, window: int, taken: int) -> None:
    """Refuse prefixes that leave a window no room for content.

    Args:
        splits: tokenized.
        files: where they come from, as far as that is a file.
        window: tokens of a window.
        taken: how many of them special tokens and overlap take.

    Raises:
        ValueError: the first document with such a prefix, with its file and line.
    """
    for split, rows in splits.items():
        lengths = rows["prefix_length"] if "prefix_length" in rows.column_names else []
        for number, length in enumerate(lengths):
            if length + taken >= window:
                where = f"{split}, document {number}"
                if split in files:
                    where = f"{files[split]}, {location_of(files[split], number)}"
                raise ValueError(
                    f"{where}: a prefix of {length} tokens leaves no room in a window of {window}, of which special "
                    f"tokens and overlap take {taken}; use a larger --window, or a shorter prefix"
                )


def places_of(data: DataArguments, split: str) -> Callable[[int], str] | None:
    """Where a row of a split comes from, as file and line; None: the split comes from no file."""
    path = data.files().get(split)
    return None if path is None else lambda number: f"{path}, {location_of(path, number)}"


def build_tokenizer(arguments: Arguments, texts: DatasetDict) -> PreTrainedTokenizerBase:
    """The tokenizer of the model or, for a built-in shape without one, one that rank 0 trains on the training text.

    Raises:
        ValueError: a tokenizer to train, but no training text; a folder without one; what `choose_languages` refuses.
    """
    model = arguments.model
    name = model.tokenizer_name or model.model_name_or_path or model.config_name
    assert name is not None, "ModelArguments asks for a model"
    if name != model.config_name or not is_shape(name):
        tokenizer = _pretrained_tokenizer(name, model.from_hub())
        choose_languages(tokenizer, *arguments.data.languages())
        return tokenizer
    if "train" not in texts:
        raise ValueError(f"--config_name {name} trains its tokenizer on the training documents; give --train_file")
    return _trained_tokenizer(arguments, texts["train"], family_name(name))


def _pretrained_tokenizer(name: str, hub: dict[str, Any]) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name, **hub)
    except ValueError as error:  # an adapter's folder, say: transformers then asks for packages, none of which helps
        why = " ".join(str(error).split())
        raise ValueError(f"{name} holds no tokenizer that can be read; give --tokenizer_name ({why})") from error


def _trained_tokenizer(arguments: Arguments, documents: Dataset, family: str) -> PreTrainedTokenizerBase:
    found: list[PreTrainedTokenizerBase | None] = [None]
    if PartialState().is_main_process:
        size, word_level = arguments.model.vocab_size, arguments.data.is_keyfacts
        found[0] = train_tokenizer(_some_text(documents), vocab_size=size, model_type=family, word_level=word_level)
    return broadcast_object_list(found)[0]


def _some_text(documents: Dataset) -> Iterator[str]:
    left = TOKENIZER_TRAINING_CHARACTERS
    for row in documents:
        texts = [row["text"]] if isinstance(row["text"], str) else row["text"]
        yield from (*texts, row["summary"])
        left -= sum(map(len, texts))
        if left < 0:
            return


def build_model(arguments: Arguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model of the run, attached; LED's with the recipe of the Longformer paper, unless the flags say otherwise.

    Raises:
        ValueError: what `attach` refuses.
    """
    if arguments.training.deepspeed is not None:
        from cached_ds import zero  # imports DeepSpeed, which other runs need not have

        zero.join_process_group()
    name, cached = str(arguments.model.config_name), arguments.cached
    if arguments.model.model_name_or_path is not None:
        dtype = _loading_dtype(arguments.training)
        model = AutoModelForSeq2SeqLM.from_pretrained(
            arguments.model.model_name_or_path, dtype=dtype, **arguments.model.from_hub()
        )
    elif is_shape(name):
        positions = max(cached.window, arguments.training.generation_max_length or 0, arguments.data.max_target_length)
        model = AutoModelForSeq2SeqLM.from_config(make_config(name, tokenizer, positions=positions))
    else:
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.from_pretrained(name, **arguments.model.from_hub()))
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        logger.warning("the embeddings grow from %d to %d tokens, as many as the tokenizer has", known, len(tokenizer))
        model.resize_token_embeddings(len(tokenizer))
    if arguments.training.do_train and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"{arguments.model.model_name_or_path}: nothing in this model is trainable; merge an adapter into its base "
            "model (merge_and_unload) before training it"
        )
    if cached.global_first_token is None:
        usual = usual_reading(model.config)["global_first_token"]
        cached = dataclasses.replace(cached, global_first_token=usual)
    return attach(model, cached)


def check_targets(model: PreTrainedModel, splits: DatasetDict, arguments: Arguments) -> None:
    """Refuse summaries that are longer than the decoder's table of positions, whether read or to be written.

    Raises:
        ValueError: the flag that shortens them.
    """
    positions, training = decoder_positions(model.config), arguments.training
    if positions is None:
        return
    longest = {
        split: max(map(len, rows["labels"]), default=0) if arguments.data.target_length(split) > positions else 0
        for split, rows in splits.items()  # summaries are cut already, so few runs have to read them
    }
    flags = {"max_target_length": longest.get("train", 0)}
    flags["val_max_target_length"] = max(longest.get("validation", 0), longest.get("test", 0))
    flags["generation_max_length"] = (training.generation_max_length or 0) if training.predict_with_generate else 0
    for flag, length in flags.items():
        if length > positions:
            raise ValueError(
                f"summaries of {length} tokens are refused; allowed is at most {positions}, the decoder's positions: "
                f"give --{flag} {positions}"
            )


def _loading_dtype(training: Seq2SeqTrainingArguments) -> torch.dtype | None:
    """float32, or a checkpoint's own type (None) where DeepSpeed keeps master weights in float32.

    transformers would load a bf16 checkpoint as bf16, and AdamW would then lose small updates by rounding.
    """
    config = getattr(training, "hf_deepspeed_config", None)  # set where --deepspeed is
    keeps_masters = config is not None and (config.is_true("bf16.enabled") or config.is_true("fp16.enabled"))
    return None if keeps_masters else torch.float32
