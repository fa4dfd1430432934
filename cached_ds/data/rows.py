"""Rows: what of a row is the document, its summary and, if there is one, its prefix.

A document may be a list of texts, and its prefix may stand in front of it in the same column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Features, List, Value

from cached_ds.data.cells import NoText, parts_at, text_at, value_at


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The paths of the columns in use, and how they are read.

    Attributes:
        text: of the document.
        summary: of the summary.
        prefix: of the document's prefix; None: there is no such column.
        id: of the document's name in its data set; None: there is no such column.
        text_lists: how a document that is a list is read, as `DataArguments.text_lists`.
        prefix_separator: what ends the prefix in the document's own column; None: no prefix is there.
    """

    text: str
    summary: str
    prefix: str | None = None
    id: str | None = None
    text_lists: str | None = None
    prefix_separator: str | None = None

    def roles(self) -> dict[str, str]:
        """The columns in use, by role: text, summary and, if there is one, prefix."""
        roles = {"text": self.text, "summary": self.summary, "prefix": self.prefix}
        return {role: column for role, column in roles.items() if column is not None}

    def features(self) -> Features:
        """The types of what `read` returns."""
        extra = {"prefix": self.prefix_separator, "id": self.id}
        names = [*self.roles(), *(name for name, given in extra.items() if given is not None)]
        types: dict[str, Any] = {name: Value("string") for name in names}
        return Features(types | ({"text": List(Value("string"))} if self.text_lists == "windows" else {}))

    def read(self, record: Mapping[str, Any], *, where: str) -> dict[str, Any]:
        """A row's texts by role; the document is a list of texts where each begins a window.

        Args:
            record: the row.
            where: the file and line, or the data set and row, for error messages.

        Raises:
            NoText: a text is missing.
            ValueError: what `text_at` refuses, a list without `text_lists`, a document without the separator.
        """
        text = self._document(record, where)
        texts: dict[str, Any] = {"text": text}
        if self.prefix_separator is not None:
            texts = split_prefix(str(text), self.prefix_separator, where=f"{where}: column {self.text!r}")
        if self.id is not None:
            texts["id"] = str(record.get(self.id, ""))
        others = {role: path for role, path in self.roles().items() if role != "text"}
        return texts | {role: text_at(record, path, role=role, where=where) for role, path in others.items()}

    def _document(self, record: Mapping[str, Any], where: str) -> str | list[str]:
        if self.text_lists is not None:
            parts = parts_at(record, self.text, where=where)
            return parts if self.text_lists == "windows" else " ".join(parts)
        if isinstance(value_at(record, self.text, role="text", where=where), list):
            raise ValueError(
                f"{where}: column {self.text!r} holds a list; give --text_lists join or windows, or name one element, "
                f"such as --text_column '{self.text}[0]'"
            )
        return text_at(record, self.text, role="text", where=where)


def split_prefix(text: str, separator: str, *, where: str) -> dict[str, str]:
    """Prefix and document from `<s> prefix</s> document`, where `</s>` is the separator and `<s>` may be missing.

    Raises:
        NoText: there is nothing behind the separator.
        ValueError: the text has no separator.
    """
    prefix, found, document = text.partition(separator)
    if not found:
        raise ValueError(f"{where} has no {separator!r}, which is to end the prefix; it begins with {text[:60]!r}")
    if not document.strip():
        raise NoText(f"{where} has no text behind {separator!r}")
    return {"text": document.strip(), "prefix": prefix.removeprefix("<s>").strip()}
