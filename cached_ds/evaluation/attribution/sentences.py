"""Sentences: the sentences of a summary, as ROUGE-Lsum tells them apart, and the tokens of each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from cached_ds.evaluation.sentences import by_rule


def sentences_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Text and positions of the tokens of each sentence; special tokens are in none.

    Letters are counted, blanks are not, since tokens and sentences keep them differently. A token belongs to the
    sentence with its last letter.

    Args:
        tokenizer: decodes the tokens.
        ids: of a summary.
    """
    texts = [line.strip() for text in by_rule(_decoded(tokenizer, ids)) for line in text.splitlines() if line.strip()]
    ends, positions = list(accumulate(map(_letters, texts))), [list[int]() for _ in texts]
    for position, token in enumerate(ids if texts else ()):
        if token not in tokenizer.all_special_ids:
            letter = _letters(_decoded(tokenizer, ids[: position + 1]))
            positions[min(bisect_left(ends, letter), len(texts) - 1)].append(position)
    return [(text, own) for text, own in zip(texts, positions, strict=True) if own]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def _letters(text: str) -> int:
    """The number of its characters that are no blanks."""
    return len("".join(text.split()))
