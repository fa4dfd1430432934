"""Config files: one mapping from a JSON or YAML file. Every error names the file and, where there is one, the line.

A key that appears twice is refused: both formats would silently keep the last one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

FILE_ENDINGS = (".yaml", ".yml", ".json")


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, except that a key is text that appears once in its mapping, and that there are no aliases.

    An alias may stand for a part of itself, or for gigabytes in a few lines.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            message = f"alias *{event.anchor}: write the value out"
            raise yaml.constructor.ConstructorError(None, None, message, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a name", key.start_mark)
            if key.value in seen:
                message = f"key {key.value!r} appears twice in one mapping"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping in a .json, .yaml or .yml file.

    Raises:
        ValueError: another ending, invalid JSON or YAML, a key that appears twice, or a file that is not a mapping.
        OSError: the file cannot be read.
    """
    readers = {".json": read_json, ".yaml": read_yaml, ".yml": read_yaml}
    suffix = Path(path).suffix
    if suffix not in readers:
        raise ValueError(f"{path}: a config file ends in {', '.join(readers)}, not in {suffix!r}")
    return readers[suffix](path)


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file; raises what `read_mapping` raises."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in pairs)
        for key, count in counts.items():
            if count > 1:
                raise ValueError(f"{path}: key {key!r} appears {count} times in one object")
        return dict(pairs)

    def number(text: str) -> float:
        raise ValueError(f"{path}: {text} is no number in JSON")

    try:
        content = json.loads(read_text(path), object_pairs_hook=unique, parse_constant=number)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply") from error
    return _mapping(content, path=path)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises what `read_mapping` raises."""
    text = read_text(path)
    try:
        content = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line}: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{path}, line {number}: the control character {error.character:#04x} is refused") from error
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply") from error
    return _mapping(content, path=path)


def key_lines(path: str | Path) -> dict[str, int]:
    """The line, from 1, of every key of the mapping in a file that `read_mapping` reads.

    JSON is read as YAML here; where it cannot be, no line is known.
    """
    text = read_text(path).replace("\t", " ")  # JSON may be indented by tabs
    try:
        node: Any = yaml.compose(text, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, RecursionError):
        return {}
    return {key.value: key.start_mark.line + 1 for key, _ in node.value}


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is not UTF-8; the message names the file and the byte.
        OSError: the file cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error


def _mapping(content: object, *, path: str | Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {type(content).__name__}, not a mapping of names to values")
    for key in content:
        if not isinstance(key, str):
            raise ValueError(f"{path}: key {key!r} is no name")
    return content
