"""Sentences: where ROUGE-Lsum cuts a text; figures made with different rules do not compare.

"rule" cuts after a mark that ends sentences, in any script, and needs no data. "punkt" is NLTK's trained model for
English, which the code of most papers uses, where its data is installed.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from cached_ds.settings.extras import needed_by


def by_rule(text: str) -> list[str]:
    """The sentences of a text."""
    return [part for part in re.split(r"(?<=[.!?])\s+|(?<=[。！？।])\s*(?=\S)", text.strip()) if part]


def by_punkt(text: str) -> list[str]:
    """The sentences of a text.

    Raises:
        ValueError: NLTK has no data for it.
        MissingExtra: NLTK is not installed.
    """
    with needed_by("--rouge_sentences punkt"):
        import nltk
    try:
        return list(nltk.sent_tokenize(text))
    except LookupError as error:
        raise ValueError(
            "--rouge_sentences punkt is refused: NLTK has no data for it here; allowed is rule, or punkt after "
            "`python -m nltk.downloader punkt_tab`"
        ) from error


SENTENCES: dict[str, Callable[[str], list[str]]] = {"rule": by_rule, "punkt": by_punkt}
