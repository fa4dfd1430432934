"""A tokenizer trained on the training text, for runs without a pretrained model.

Its special tokens and their ids are those that the configuration classes of transformers expect by default, family by
family, so that `BartConfig()` or `T5Config()` and this tokenizer agree on padding, start and end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

UNLIMITED = int(1e30)  # transformers' own way to say that a tokenizer has no maximal length
_BART_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_T5_TOKENS = ("<pad>", "</s>", "<unk>", "<mask>")


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The special tokens of a family: all of them in the order of their ids, and the frame around a document."""

    tokens: tuple[str, ...]
    frame: str


FAMILIES = {
    "bart": SpecialTokens(tokens=_BART_TOKENS, frame="<s> $A </s>"),
    "led": SpecialTokens(tokens=_BART_TOKENS, frame="<s> $A </s>"),
    "mbart": SpecialTokens(tokens=(*_BART_TOKENS, "en_XX"), frame="$A </s> en_XX"),
    "t5": SpecialTokens(tokens=_T5_TOKENS, frame="$A </s>"),
    "mt5": SpecialTokens(tokens=_T5_TOKENS, frame="$A </s>"),
    "pegasus": SpecialTokens(tokens=_T5_TOKENS, frame="$A </s>"),
}


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, model_type: str, word_level: bool = False
) -> PreTrainedTokenizerFast:
    """Train a tokenizer that never truncates.

    Args:
        texts: the training text, read once.
        vocab_size: the number of tokens at most, special tokens included.
        model_type: the model's family, as in `config.model_type`.
        word_level: a token per word between spaces (for keyfacts) instead of byte-level BPE.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"model_type={model_type!r}: must be one of {', '.join(FAMILIES)}")
    special = FAMILIES[model_type]
    smallest = len(special.tokens) + (1 if word_level else len(pre_tokenizers.ByteLevel.alphabet()))
    if vocab_size < smallest:
        raise ValueError(f"vocab_size={vocab_size}: must be at least {smallest} for {model_type}")
    train = _train_words if word_level else _train_bytes
    backend = train(texts, vocab_size, list(special.tokens))
    frame = [(token, backend.token_to_id(token)) for token in special.frame.split() if token != "$A"]
    backend.post_processor = processors.TemplateProcessing(single=special.frame, special_tokens=frame)
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


def _wrap(backend: Tokenizer, special: SpecialTokens) -> PreTrainedTokenizerFast:
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
    if "<s>" in special.tokens:
        names |= {"bos_token": "<s>"}
    languages = [token for token in special.tokens if not token.startswith("<")]
    extra = {"additional_special_tokens": languages} if languages else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=UNLIMITED,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **names,
        **extra,
    )
