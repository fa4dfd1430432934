"""Languages: those of a tokenizer that knows several, and puts the code of one around every text."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from cached_ds.settings.unknown_names import unknown


def choose_languages(tokenizer: PreTrainedTokenizerBase, source: str | None, target: str | None) -> None:
    """Set the languages of documents and summaries, in place.

    Raises:
        ValueError: none given to a tokenizer that needs to know; one that it does not know, or that knows none.
    """
    known = list(getattr(tokenizer, "lang_code_to_id", {}))
    if not known:
        if source or target:
            raise ValueError(f"lang={source or target!r}: this tokenizer has no languages; leave the flag out")
        return
    if source is None and getattr(tokenizer, "tgt_lang", None) is None:
        raise ValueError(
            f"this tokenizer knows {len(known)} languages; give --lang, or --source_lang and --target_lang, such as "
            f"{known[0]}"
        )
    for name, language in (("src_lang", source), ("tgt_lang", target)):
        if language is not None:
            if language not in known:
                raise ValueError(unknown(language, known, kind="language"))
            setattr(tokenizer, name, language)
            tokenizer.init_kwargs[name] = language  # so that the saved tokenizer knows it too
