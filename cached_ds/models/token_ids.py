"""Token ids: the one way from text to ids, for training and for summaries of a trained model.

A document becomes `head prefix content tail`, where head and tail are the tokenizer's own special tokens (`<s>` and
`</s>` for BART). Prefix and content are tokenized apart, so that the prefix's tokens can be repeated in front of every
window. Text that merely looks like a special token (`</s>` in a source file) is tokenized as the characters it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The special tokens that a tokenizer puts around a text."""

    head: list[int]
    tail: list[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, *, target: bool = False) -> Frame:
        """The frame of a document or, with `target`, of a summary, found by tokenizing one letter.

        Raises:
            ValueError: a tokenizer that knows no text: that of a folder without one.
        """
        role = "text_target" if target else "text"
        probe = tokenizer(**{role: "a"}, return_special_tokens_mask=True)
        ids, special = probe["input_ids"], probe["special_tokens_mask"]
        if 0 not in special:
            name = tokenizer.name_or_path or "the tokenizer"
            raise ValueError(f"{name}: has no tokens for text; give --tokenizer_name")
        first, last = special.index(0), len(special) - special[::-1].index(0)
        return cls(head=ids[:first], tail=ids[last:])

    @property
    def size(self) -> int:
        """The number of special tokens."""
        return len(self.head) + len(self.tail)

    def around(self, content: list[int], *, prefix: Sequence[int] = (), max_length: int | None = None) -> list[int]:
        """Head, prefix, content and tail; the end of the content is cut if all would be longer than `max_length`.

        Raises:
            ValueError: `max_length` leaves no room for content.
        """
        if max_length is not None:
            room = max_length - self.size - len(prefix)
            if room < 1:
                raise ValueError(
                    f"max_source_length={max_length}: no room for the document behind a prefix of {len(prefix)} tokens "
                    f"and {self.size} special tokens"
                )
            content = content[:room]
        return [*self.head, *prefix, *content, *self.tail]


def document_ids(tokenizer: PreTrainedTokenizerBase, text: str, *, prefix: Sequence[int] = ()) -> list[int]:
    """The ids of one document, as in training; `prefix` has no special tokens."""
    return Frame.of(tokenizer).around(ids_of(tokenizer, [text])[0], prefix=prefix)


def ids_of(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, target: bool = False) -> list[list[int]]:
    """Token ids without special tokens; `verbose` would warn of lengths that windows have no trouble with."""
    role = "text_target" if target else "text"
    encoded = tokenizer(**{role: texts}, add_special_tokens=False, split_special_tokens=True, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids
