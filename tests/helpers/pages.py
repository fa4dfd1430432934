"""The README and the pages of docs/ as their tests read them: marked blocks, tables, trees of files."""

from __future__ import annotations

import dataclasses
import importlib
import re

from helpers.repo import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))


def text_of(name):
    """The text of a file, by its path in the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text):
    """What stands between `<!-- NAME -->` and `<!-- end -->`, as pairs of name and content."""
    return re.findall(r"^<!-- (.+?) -->\n(.*?)^<!-- end -->$", text, flags=re.MULTILINE | re.DOTALL)


def table_rows(text):
    """The cells of every table row in a text, head and rule left out of each table."""
    tables = re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()[2:]]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def section(text, heading):
    """What follows a heading, up to the next one of the same or a higher level."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = text.partition(f"{heading}\n")
    assert found, f"there is no heading {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def trees(text):
    """Path -> comment from the fenced blocks whose first line is a folder: each a tree of files.

    A folder ends in a slash and stands alone or before its comment; what lies in it is indented by two more spaces; a
    comment stands at least two spaces behind its name. A folder without files below it is an entry of its own. No path
    may stand there twice.
    """
    entries: dict[str, str] = {}
    for block in re.findall(r"^```\w*\n(\S+/(?:\s.*?)?\n.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        parents: list[str] = []
        for line in filter(str.strip, block.splitlines()):
            indent, name, comment = re.fullmatch(r"((?:  )*)(\S+)(?:\s{2,}(.*))?", line).groups()
            parents[len(indent) // 2 :] = [name]
            path = "".join(parents)
            assert path not in entries, f"listed twice: {path}"
            entries[path] = comment or ""
    return entries


def fields_table(marker):
    """The table of a dataclass's fields, for `fields of DOTTED.NAME`, or of its flags, for `flags of DOTTED.NAME`."""
    kind, dotted = re.fullmatch(r"(fields|flags) of (\S+)", marker).groups()
    module, _, name = dotted.rpartition(".")
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    with_allowed = any("allowed" in field.metadata for field in fields)
    head = [kind.removesuffix("s"), "default", "meaning", *(["allowed"] if with_allowed else [])]
    lines = [_field_cells(field, kind, with_allowed) for field in fields]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *lines])


def _field_cells(field, kind, with_allowed):
    name = f"`{'--' if kind == 'flags' else ''}{field.name}`"
    allowed = [field.metadata["allowed"].replace("*", r"\*")] if with_allowed else []
    return [name, _default(field), field.metadata["help"].replace("|", r"\|"), *allowed]


def _default(field):
    """As a user would write it; sizes in GiB."""
    if getattr(field.metadata.get("type"), "__name__", "") == "size":
        return f"`{field.default / 2**30:g}GiB`"
    text = repr(field.default)
    return f"`{text}`".replace("'", '"')
