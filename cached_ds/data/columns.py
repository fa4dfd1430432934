"""Columns: which column of a data set is the document, the summary and, if there is one, the document's prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cached_ds.data.arguments import DataArguments


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of the columns in use, by their role."""

    text: str
    summary: str
    prefix: str | None = None

    def roles(self) -> dict[str, str]:
        """The columns in use, by role: text, summary and, if there is one, prefix."""
        roles = {"text": self.text, "summary": self.summary, "prefix": self.prefix}
        return {role: column for role, column in roles.items() if column is not None}


def choose_columns(
    arguments: DataArguments, *, available: Sequence[str], where: str, known: Columns | None = None
) -> Columns:
    """The columns to use: those of the flags first, then those known of the data set, then its first two.

    Args:
        arguments: the flags.
        available: the columns there are.
        where: the file or data set, for error messages.
        known: the columns of a data set whose layout is known.

    Raises:
        ValueError: a column that is not there, or one column for document and summary.
    """
    chosen = Columns(
        text=arguments.text_column or (known.text if known else _column_at(0, available, where)),
        summary=arguments.summary_column or (known.summary if known else _column_at(1, available, where)),
        prefix=arguments.prefix_column,
    )
    for role, column in chosen.roles().items():
        if column not in available:
            raise ValueError(
                f"{where}: no column {column!r} for the {role}; the columns are {', '.join(map(str, available))}"
            )
    if chosen.text == chosen.summary:
        raise ValueError(f"{where}: column {chosen.text!r} is both document and summary; give --summary_column")
    return chosen


def _column_at(index: int, available: Sequence[str], where: str) -> str:
    if index >= len(available):
        raise ValueError(
            f"{where}: the only column is {', '.join(map(str, available))}; documents and summaries need a column each"
        )
    return available[index]
