"""Flags: the spellings of launchers and recipes, brought into one form for the argument parser."""

from __future__ import annotations

import json
from argparse import Action
from collections.abc import Mapping, Sequence
from typing import Any

from cached_ds.settings.config_files import FILE_ENDINGS, read_mapping
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


def normalise(argv: Sequence[str], known: Mapping[str, Action]) -> list[str]:
    """The command line as flags only: a leading recipe is opened, and DeepSpeed's spelling becomes `--deepspeed FILE`.

    Args:
        argv: the command line after the program's name.
        known: all flags of the parser, such as `--max_steps`.

    Raises:
        ValueError: an unknown flag or recipe key, with the nearest known one; an unreadable recipe; a stray word.
    """
    flags = without_local_rank(argv)
    if flags and flags[0].endswith(FILE_ENDINGS):
        flags = [*_recipe_flags(flags[0], known), *flags[1:]]
    elif flags and not flags[0].startswith("--"):
        raise ValueError(f"{flags[0]!r}: expected a flag, or a recipe that ends in {', '.join(FILE_ENDINGS)}")
    flags = _one_deepspeed_flag(flags)
    for flag in flags:
        name = flag.split("=")[0]
        if flag.startswith("--") and name not in known:
            raise ValueError(_explained(name) or unknown(name, known, kind="flag"))
    return flags


def _explained(name: str) -> str | None:
    """What to say of a flag that `run_summarization.py` has and that makes no sense here."""
    reason = EXPLAINED.get(name.removeprefix("--"))
    return f"{name} is refused: {reason}" if reason else None


def without_local_rank(argv: Sequence[str]) -> list[str]:
    """The command line without the --local_rank=N that DeepSpeed's launcher puts first; the environment has it too."""
    return [word for word in argv if not word.startswith("--local_rank=")]


def value_of(flags: Sequence[str], name: str) -> str | None:
    """The value of a flag, the last one if it is given twice."""
    value = None
    for number, flag in enumerate(flags):
        if flag == name and number + 1 < len(flags):
            value = flags[number + 1]
        elif flag.startswith(f"{name}="):
            value = flag.split("=", 1)[1]
    return value


def _recipe_flags(path: str, known: Mapping[str, Action]) -> list[str]:
    recipe = read_mapping(path)
    names = {flag.removeprefix("--") for flag in known if "-" not in flag.removeprefix("--")}
    for name in recipe:
        if name not in names:
            raise ValueError(f"{path}: {_explained(name) or unknown(name, names, kind='key')}")
    return [word for name, value in recipe.items() for word in _as_flag(path, name, value, known[f"--{name}"])]


def _as_flag(path: str, name: str, value: Any, action: Action) -> list[str]:
    if value is None:
        return []
    if value is False and "no" in (action.choices or ()):
        value = "no"  # YAML reads `save_strategy: no` as false
    if isinstance(value, list) and action.nargs != "+":
        raise ValueError(f"{path}: {name}: a list is refused; allowed is one value")
    values = value if isinstance(value, list) else [value]
    words = [json.dumps(one) if isinstance(one, Mapping | list) else str(one) for one in values]
    for word in words:
        if "\0" in word or not word.isascii() and word != word.encode(errors="ignore").decode():
            raise ValueError(f"{path}: {name}={word!r} holds what no command line can hold")
    return [f"--{name}", *words]


def _one_deepspeed_flag(flags: list[str]) -> list[str]:
    """Join DeepSpeed's own spelling, a bare `--deepspeed` beside `--deepspeed_config FILE`, into `--deepspeed FILE`."""
    if not any(flag.split("=")[0] == "--deepspeed_config" for flag in flags):
        return flags
    followed = [*flags[1:], "--"]
    kept = [
        flag for flag, after in zip(flags, followed, strict=True) if flag != "--deepspeed" or not after.startswith("--")
    ]
    return [flag.replace("--deepspeed_config", "--deepspeed", 1) for flag in kept]
