"""Document files: the texts of the documents in text, JSON Lines, PDF and HTML files, and in standard input.

JSON Lines hold many documents, each in the column whose name says so, as in training; other files hold one each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cached_ds.settings.config_files import read_text
from cached_ds.settings.extras import needed_by

STDIN = "-"


@dataclass(frozen=True)
class TextDocument:
    """One document.

    Attributes:
        name: the file, with `line N` where it holds many.
        text: all of it.
        prefix: its own, such as a query, with which every window begins; None: it has none.
    """

    name: str
    text: str
    prefix: str | None = None


def read_documents(
    path: str, *, text_column: str | None = None, prefix_column: str | None = None
) -> list[TextDocument]:
    """The documents of a file, or of standard input for "-".

    Args:
        path: of a text, .jsonl, .pdf or .html file.
        text_column: of JSON Lines; None: by its name.
        prefix_column: of JSON Lines; None: their documents have no prefixes.

    Raises:
        ValueError: a file that is empty, holds no text or is not what its name says, or has no columns where one is
            asked for; the message names it.
        OSError: a file that cannot be read.
        MissingExtra: the library that reads PDF or HTML is not installed.
    """
    suffix, name = Path(path).suffix.lower(), "standard input" if path == STDIN else path
    if suffix == ".jsonl":
        documents = list(_json_lines(path, text_column, prefix_column))
    elif prefix_column is not None:
        raise ValueError(f"{name}: prefix_column={prefix_column!r} is refused; only JSON Lines have columns")
    else:
        documents = [TextDocument(name, sys.stdin.read() if path == STDIN else _READERS.get(suffix, read_text)(path))]
    if not documents or not documents[0].text.strip():
        raise ValueError(f"{name}: the file is empty")
    return documents


def _pdf(path: str) -> str:
    with needed_by("reading PDF"):
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    try:
        return "\n".join(page.extract_text() for page in PdfReader(path).pages)
    except PyPdfError as error:
        raise ValueError(f"{path}: not a PDF that can be read ({error})") from error


def _html(path: str) -> str:
    with needed_by("reading HTML"):
        from inscriptis import get_text
    return str(get_text(read_text(path)))


def _json_lines(path: str, column: str | None, prefix: str | None) -> Iterator[TextDocument]:
    """A document of each line; the first line's names say which column, where none is given."""
    with needed_by("reading JSON Lines"):
        from cached_ds.data.cells import text_at
        from cached_ds.data.columns import document_column
        from cached_ds.data.sources.local_files import read_records
    for location, record in read_records(Path(path)):
        where = f"{path}, {location}"
        column = column or document_column([name for name in record if name != prefix], where=where)
        own = None if prefix is None else text_at(record, prefix, role="prefix", where=where)
        yield TextDocument(where, text_at(record, column, role="text", where=where), own)


_READERS: dict[str, Callable[[str], str]] = {".pdf": _pdf, ".html": _html, ".htm": _html}
