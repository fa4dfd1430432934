"""Recipe: a file of flags. It is opened into words, and named, with the line, where one of its values is refused."""

from __future__ import annotations

import json
import re
from argparse import Action
from collections.abc import Mapping, Sequence
from typing import Any

from cached_ds.settings.config_files import FILE_ENDINGS, key_lines, read_mapping
from cached_ds.settings.unknown_names import unknown

# Flags of transformers' run_summarization.py that are not taken, and why.
EXPLAINED = {
    "use_fast_tokenizer": "transformers has one kind of tokenizer only; leave the flag out",
    "trust_remote_code": "code from the hub is never run",
    "resize_position_embeddings": "windows fit the encoder's positions, however long a document is; leave the flag out",
    "pad_to_max_length": "documents are padded to the longest of their batch; leave the flag out",
    "ignore_pad_token_for_loss": "padding never counts in the loss; leave the flag out",
    "forced_bos_token": "the first token of summaries is that of training; for languages use --lang",
}


def recipe_of(flags: Sequence[str]) -> str | None:
    """The recipe that a command line, without what launchers put first, begins with."""
    return flags[0] if flags and flags[0].endswith(FILE_ENDINGS) else None


def opened(path: str, known: Mapping[str, Action]) -> list[str]:
    """The words of the command line that say the same as the recipe.

    Raises:
        ValueError: a key that is no flag, with the nearest known one; a value that no command line can hold; a file
            that `read_mapping` refuses.
    """
    names = {flag.removeprefix("--") for flag in known if "-" not in flag.removeprefix("--")}
    words = []
    for name, value in read_mapping(path).items():
        if name not in names:
            complaint = explained(name) or unknown(name, names, kind="key")
            raise ValueError(f"{_place(path, name)}: {complaint}")
        words += _as_flag(path, name, value, known[f"--{name}"])
    return words


def explained(name: str) -> str | None:
    """What to say of a flag that `run_summarization.py` has and that makes no sense here."""
    reason = EXPLAINED.get(name.removeprefix("--"))
    return f"{name} is refused: {reason}" if reason else None


def located(message: str, flags: Sequence[str]) -> str:
    """What refuses a value, with the recipe and the line in front if the value is from there.

    Args:
        message: of an error; the first `--name` or `name=` in it is the flag that is refused.
        flags: the command line without what launchers put first; its own flags win over the recipe's.
    """
    path = recipe_of(flags)
    if path is None or path in message:
        return message
    given = {flag.split("=")[0].removeprefix("--").replace("-", "_") for flag in flags}
    found = re.search(r"--(\w+)|\b(\w+)=", message)
    name = (found[1] or found[2]) if found else ""
    line = None if name in given else key_lines(path).get(name)
    return f"{path}, line {line}: {message}" if line else message


def _place(path: str, name: str) -> str:
    line = key_lines(path).get(name)
    return f"{path}, line {line}" if line else path


def _as_flag(path: str, name: str, value: Any, action: Action) -> list[str]:
    if value is None:
        return []
    if value is False and "no" in (action.choices or ()):
        value = "no"  # YAML reads `save_strategy: no` as false
    if isinstance(value, list) and action.nargs != "+":
        raise ValueError(f"{_place(path, name)}: {name}: a list is refused; allowed is one value")
    values = value if isinstance(value, list) else [value]
    words = [json.dumps(one) if isinstance(one, Mapping | list) else str(one) for one in values]
    for word in words:
        if "\0" in word or not word.isascii() and word != word.encode(errors="ignore").decode():
            raise ValueError(f"{_place(path, name)}: {name}={word!r} holds what no command line can hold")
    return [f"--{name}", *words]
