"""Tokenizer training: a tokenizer trained on the training text, for runs without a pretrained model.

Its special tokens and their ids are those of the family (models/families.py), which the configuration classes of
transformers expect by default: `BartConfig()` or `T5Config()` and this tokenizer agree on padding, start and end.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cached_ds.models.families import family_named, language_codes

UNLIMITED = int(1e30)  # transformers' own way to say that a tokenizer has no maximal length


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, model_type: str, word_level: bool = False
) -> PreTrainedTokenizerFast:
    """Train a tokenizer that never truncates.

    Args:
        texts: the training text, read once.
        vocab_size: the largest number of tokens, special tokens included.
        model_type: the model's family, as in `config.model_type`.
        word_level: a token for each word between spaces (for keyfacts) instead of byte-level BPE.

    Raises:
        ValueError: an unknown family, or a vocabulary too small for the special tokens and single bytes.
    """
    family = family_named(model_type)
    special = list(family.special_tokens)
    smallest = len(special) + (1 if word_level else len(pre_tokenizers.ByteLevel.alphabet()))
    if vocab_size < smallest:
        raise ValueError(f"vocab_size={vocab_size}: must be at least {smallest} for {model_type}")
    train = _train_words if word_level else _train_bytes
    backend = train(texts, vocab_size, special)
    template = family.frames[0].template(special)
    frame = [(token, backend.token_to_id(token)) for token in template.split() if token != "$A"]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=frame)
    return _wrap(backend, special)


def _train_bytes(texts: Iterable[str], vocab_size: int, special: list[str]) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _train_words(texts: Iterable[str], vocab_size: int, special: list[str]) -> Tokenizer:
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return backend


def _wrap(backend: Tokenizer, special: list[str]) -> PreTrainedTokenizerFast:
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
    if "<s>" in special:
        names |= {"bos_token": "<s>"}
    languages = language_codes(special)
    extra = {"additional_special_tokens": languages} if languages else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=UNLIMITED,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **names,
        **extra,
    )
