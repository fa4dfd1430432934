"""Columns: which column of a data set is the document, the summary and, if there is one, the document's prefix.

They are chosen by their names, never by their places: JSON knows no order, and a file may begin with an id.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from cached_ds.data.arguments import DataArguments
from cached_ds.data.cells import column_of
from cached_ds.data.rows import Columns

# Names of columns in the data sets that people train summarization on, in lower case.
DOCUMENT_NAMES = ("text", "document", "article", "report", "source", "src", "input", "transcript", "dialogue", "scenes",
                  "chapter", "story", "book")  # fmt: skip
SUMMARY_NAMES = ("summary", "highlights", "abstract", "target", "tgt", "output", "recap", "summary_text", "gist")
KNOWN_NAMES = (*DOCUMENT_NAMES, *SUMMARY_NAMES)


def choose_columns(
    arguments: DataArguments, *, available: Sequence[str], where: str, known: Columns | None = None
) -> Columns:
    """The columns to use: those of the flags first, then those known of the data set, then those with a known name.

    Where one role is decided and one column is left, that is the other role's.

    Args:
        arguments: the flags.
        available: the columns there are.
        where: the file or data set, for error messages.
        known: the columns of a data set whose layout is known.

    Raises:
        ValueError: a column that is not there, one column for document and summary, or columns of which none or
            several could be meant.
    """
    text = arguments.text_column or (known.text if known else None)
    summary = arguments.summary_column or (known.summary if known else None)
    given = {"text": text, "summary": summary, "prefix": arguments.prefix_column}
    taken = {role: column_of(path, available) for role, path in given.items() if path is not None}
    for role, column in taken.items():
        if column is None:
            raise ValueError(f"{where}: no column {given[role]!r} for the {role}; the columns are {_listed(available)}")
    free = [name for name in available if name not in taken.values()]
    text = text or _named(DOCUMENT_NAMES, free)
    summary = summary or _named(SUMMARY_NAMES, free)
    left = [name for name in free if name not in (text, summary)]
    if (text is None) != (summary is None) and len(left) == 1 and left[0].lower() not in KNOWN_NAMES:
        text, summary = text or left[0], summary or left[0]
    if text is not None and text == summary:
        raise ValueError(f"{where}: column {text!r} is both document and summary; give --summary_column")
    columns = Columns(
        text=text or _refuse_choice("text", [name for name in free if name != summary], where),
        summary=summary or _refuse_choice("summary", [name for name in free if name != text], where),
        prefix=arguments.prefix_column,
        id=_named(["id"], left),
    )
    return _with_flags(columns, arguments, known)


def _with_flags(columns: Columns, arguments: DataArguments, known: Columns | None) -> Columns:
    """The columns with what the flags say of lists and prefixes, or else what is known of the document's column."""
    lists, separator = arguments.text_lists, arguments.prefix_separator
    if known is not None and columns.text == known.text:
        lists = lists or known.text_lists
        if arguments.source_prefix is None and arguments.prefix_column is None:
            separator = separator or known.prefix_separator
    return replace(columns, text_lists=lists, prefix_separator=separator)


def document_column(available: Sequence[str], *, where: str) -> str:
    """The column of documents without summaries: the one that has a known name, or is the only one.

    Raises:
        ValueError: none or several could be meant.
    """
    free = [name for name in available if name.lower() not in SUMMARY_NAMES]
    return _named(DOCUMENT_NAMES, free) or (free[0] if len(free) == 1 else _refuse_choice("text", free, where))


def check_same(columns: Mapping[str, Columns], places: Mapping[str, str]) -> None:
    """Refuse splits of which one has its documents or summaries in another column than the first.

    Args:
        columns: by split.
        places: the file or data set of each split, for error messages.

    Raises:
        ValueError: the splits differ.
    """
    first = next(iter(columns), "")
    for split, chosen in columns.items():
        for role, column in chosen.roles().items():
            expected = columns[first].roles()[role]
            if column != expected:
                raise ValueError(
                    f"{places[split]}: the {role} would be column {column!r}, but {expected!r} in {places[first]}; "
                    f"give --{role}_column"
                )


def _named(names: Collection[str], available: Sequence[str]) -> str | None:
    """The one column that has one of these names; None if there is none, or more than one."""
    found = [column for column in available if column.lower() in names]
    return found[0] if len(found) == 1 else None


def _refuse_choice(role: str, candidates: Sequence[str], where: str) -> str:
    if not candidates:
        raise ValueError(f"{where}: no column is left for the {role}; documents and summaries need a column each")
    raise ValueError(
        f"{where}: which column is the {role}? Give --{role}_column, one of {_listed(candidates)}; no single one of "
        "them has a name that says so"
    )


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names))
