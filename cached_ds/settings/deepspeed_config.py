"""DeepSpeed configs, as a file or as values: their keys and values are checked before anything reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cached_ds.settings.config_files import read_json
from cached_ds.settings.deepspeed_keys import check_keys
from cached_ds.settings.deepspeed_values import check_values


def load_given(text: str) -> dict[str, Any]:
    """The DeepSpeed config that a flag gives: the path of a file, or the content itself, as a recipe may hold it.

    Raises:
        ValueError: what `load` refuses.
        OSError: the file cannot be read.
    """
    return checked(json.loads(text), source="deepspeed") if text.lstrip().startswith("{") else load(text)


def load(path: str | Path) -> dict[str, Any]:
    """The DeepSpeed config in a JSON file, its keys and values checked.

    Raises:
        ValueError: an unknown key, a value that DeepSpeed does not take, or a file that is not a JSON object.
        OSError: the file cannot be read.
    """
    return checked(read_json(path), source=str(path))


def checked(config: dict[str, Any], *, source: str) -> dict[str, Any]:
    """The config itself, its keys and values checked.

    Args:
        config: the content of a DeepSpeed config.
        source: where it comes from, for the message.

    Raises:
        ValueError: unknown keys, or the first value that DeepSpeed does not take.
    """
    check_keys(config, source=source)
    check_values(config, source=source)
    return config
