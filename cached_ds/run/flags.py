"""Flags: the spellings of launchers and recipes, brought into one form for the argument parser."""

from __future__ import annotations

from argparse import Action
from collections.abc import Mapping, Sequence

from cached_ds.run.recipe import explained, opened, recipe_of
from cached_ds.settings.config_files import FILE_ENDINGS
from cached_ds.settings.unknown_names import unknown


def normalise(argv: Sequence[str], known: Mapping[str, Action]) -> list[str]:
    """The command line as flags only: a leading recipe is opened, and DeepSpeed's spelling becomes `--deepspeed FILE`.

    Args:
        argv: the command line after the program's name.
        known: all flags of the parser, such as `--max_steps`.

    Raises:
        ValueError: an unknown flag or recipe key, with the nearest known one; an unreadable recipe; a stray word.
    """
    flags = without_local_rank(argv)
    if (recipe := recipe_of(flags)) is not None:
        flags = [*opened(recipe, known), *flags[1:]]
    elif flags and not flags[0].startswith("--"):
        raise ValueError(f"{flags[0]!r}: expected a flag, or a recipe that ends in {', '.join(FILE_ENDINGS)}")
    flags = _one_deepspeed_flag(flags)
    for flag in flags:
        name = flag.split("=")[0]
        if flag.startswith("--") and name not in known:
            raise ValueError(explained(name) or unknown(name, known, kind="flag"))
    return flags


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


def _one_deepspeed_flag(flags: list[str]) -> list[str]:
    """Join DeepSpeed's own spelling, a bare `--deepspeed` beside `--deepspeed_config FILE`, into `--deepspeed FILE`."""
    if not any(flag.split("=")[0] == "--deepspeed_config" for flag in flags):
        return flags
    followed = [*flags[1:], "--"]
    kept = [
        flag for flag, after in zip(flags, followed, strict=True) if flag != "--deepspeed" or not after.startswith("--")
    ]
    return [flag.replace("--deepspeed_config", "--deepspeed", 1) for flag in kept]
