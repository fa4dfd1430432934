"""Cells: what a row holds at a column path, as text.

A path is the name of a column, or goes on into what the column holds: `Recap[0]` is the first element of a list,
`summary[0].text` a field of it. A column whose name is the whole path is that column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_STEP = re.compile(r"\[(\d+)\]|\.(\w+)")
_STEPS = re.compile(rf"(?:{_STEP.pattern})*")


class NoText(ValueError):
    """A row has no text where it should have some: nothing, blanks, or a list that is too short."""


def column_of(path: str, available: Iterable[str]) -> str | None:
    """The column in which a path begins; None if there is no such column."""
    found = [name for name in available if path.startswith(name) and _STEPS.fullmatch(path, len(name))]
    return max(found, key=len, default=None)


def text_at(record: Mapping[str, Any], path: str, *, role: str, where: str) -> str:
    """The text at a path; that of a prefix may be empty.

    Args:
        record: the row.
        path: of the cell.
        role: text, summary or prefix, whose flag is `--{role}_column`.
        where: the file and line, or the data set and row, for error messages.

    Raises:
        NoText: there is none.
        ValueError: no such column or field, or something else than text in it.
    """
    value = value_at(record, path, role=role, where=where)
    if isinstance(value, list):
        raise ValueError(
            f"{where}: column {path!r} must hold text, not list; name one element, such as --{role}_column '{path}[0]'"
        )
    text = _checked(value, path, where)
    if role != "prefix" and not text.strip():
        raise NoText(f"{where}: column {path!r} is empty; every document and every summary must have text")
    return text


def parts_at(record: Mapping[str, Any], path: str, *, where: str) -> list[str]:
    """The texts in the list of a document; blank ones are left out.

    Args:
        record: the row.
        path: of the cell.
        where: as for `text_at`.

    Raises:
        NoText: there is none.
        ValueError: no such column or field, no list, or something else than text in it.
    """
    value = value_at(record, path, role="text", where=where)
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{where}: column {path!r} holds {type(value).__name__}, no list; leave --text_lists out")
    parts = [_checked(part, f"{path}[{number}]", where) for number, part in enumerate(value or ()) if part is not None]
    if not any(part.strip() for part in parts):
        raise NoText(f"{where}: column {path!r} is empty; every document must have text")
    return [part for part in parts if part.strip()]


def value_at(record: Mapping[str, Any], path: str, *, role: str, where: str) -> Any:
    """Whatever is at a path; arguments and errors are those of `text_at`."""
    name = column_of(path, record)
    if name is None:
        raise ValueError(f"{where}: no column {path!r} for the {role}; the columns are {', '.join(map(str, record))}")
    value = record[name]
    for index, key in _STEP.findall(path, len(name)):
        value = _element(value, int(index), path, where) if index else _field(value, key, path, where)
    return value


def _element(value: Any, index: int, path: str, where: str) -> Any:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{where}: column {path!r} needs a list for [{index}], not {type(value).__name__}")
    if value is None or len(value) <= index:
        raise NoText(f"{where}: column {path!r}: a list of {len(value or ())} has no element [{index}]")
    return value[index]


def _field(value: Any, key: str, path: str, where: str) -> Any:
    if value is None:
        raise NoText(f"{where}: column {path!r}: there is nothing with a field .{key}")
    if not isinstance(value, Mapping) or key not in value:
        found = f"the fields {', '.join(value)}" if isinstance(value, Mapping) else type(value).__name__
        raise ValueError(f"{where}: column {path!r} needs a field .{key}, not {found}")
    return value[key]


def _checked(value: Any, path: str, where: str) -> str:
    if value is None:
        raise NoText(f"{where}: column {path!r} must hold text, not NoneType")
    if not isinstance(value, str):
        raise ValueError(f"{where}: column {path!r} must hold text, not {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: column {path!r} holds half a character ({error.reason})") from error
    return value
