"""The README's tree shows every room and top folder; CONTRIBUTING's table names every room and door."""

from __future__ import annotations

from helpers.pages import section, table_rows, text_of, trees
from helpers.repo import FOLDERS, ROOT

TOP = {f"{folder}/" for folder in (*FOLDERS, "docs")}
PACKAGE = ROOT / "cached_ds"
ROOMS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
WITHOUT_A_ROW = {
    "__init__",
    "leaving",
    "left_memory",
    "op_locks",
}  # imported by name, or a guard of the process: beside the rooms


def test_the_tree_shows_every_room():
    entries = trees(text_of("README.md"))
    assert set(entries) == TOP | {f"cached_ds/{room}/" for room in ROOMS}
    silent = sorted(path for path, comment in entries.items() if not comment)
    assert not silent, f"without a word on what it is: {silent}"


def test_contributing_names_every_room():
    rows = table_rows(section(text_of("CONTRIBUTING.md"), "## How the house is laid out"))
    named = [name.strip(" `") for row in rows for name in row[0].split(",")]
    doors = {path.stem for path in PACKAGE.glob("*.py")} - WITHOUT_A_ROW
    assert sorted(named) == sorted(ROOMS | doors)
