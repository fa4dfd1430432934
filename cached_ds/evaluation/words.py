"""Words: how ROUGE cuts a text into words.

rouge-score's own way keeps the letters a to z and digits only, and stems: the figures of papers on English are made
that way, and a text in another script has no words at all. `UnicodeWords` keeps the letters, marks and digits of every
script; where a script puts no spaces between words, each character is a word.
"""

from __future__ import annotations

from collections.abc import Sequence

import regex  # type: ignore[import-untyped]

TOKENIZERS = ("english", "unicode")
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"(?V1)[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]+")
_ENGLISH = regex.compile(r"[a-z0-9]")
_ANY = regex.compile(r"[\p{L}\p{M}\p{N}]")


class UnicodeWords:
    """A tokenizer for rouge-score's `RougeScorer`."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text, in lower case."""
        return _WORD.findall(text.lower())


def lost_share(texts: Sequence[str]) -> float:
    """The share of letters and digits that rouge-score's own tokenizer drops."""
    known, kept = (sum(len(pattern.findall(text.lower())) for text in texts) for pattern in (_ANY, _ENGLISH))
    return 1 - kept / known if known else 0.0
