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
    """YAML's safe loader, except that a key may appear only once in its mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
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

    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from error
    return _mapping(content, path=path)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises what `read_mapping` raises."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line}: {error.problem}") from error
    return _mapping(content, path=path)


def _mapping(content: object, *, path: str | Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {type(content).__name__}, not a mapping of names to values")
    return content
