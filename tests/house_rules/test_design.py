"""The design page keeps up with the code: what is borrowed from private parts, the hand-overs, the rooms."""

from __future__ import annotations

import ast
import re

import pytest

from helpers.pages import section, table_rows, text_of
from helpers.repo import ROOT, parsed, source_files

DESIGN = text_of("docs/design.md")
BORROWED = table_rows(section(DESIGN, "## Borrowed from private parts"))
PACKAGE = ROOT / "cached_ds"
PUBLIC = {"_exit"}  # os._exit, which Python documents


def words(cell):
    """What stands in code spans."""
    return re.findall(r"`([^`]+)`", cell)


def own_names():
    """Private names that the package itself defines: functions, classes, variables and attributes."""
    found = set()
    for path in source_files("cached_ds"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found


def private_names_in_use():
    """Private attributes and modules of others that the package reads."""
    own, found = own_names() | PUBLIC, set()
    for path in source_files("cached_ds"):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr) and node.attr not in own:
                found.add(node.attr)
            elif isinstance(node, ast.ImportFrom) and re.search(r"\._", node.module or ""):
                found.add(node.module)
    return found


def test_everything_borrowed_is_listed():
    listed = {name for row in BORROWED for name in words(row[1])}
    missing = {name for name in private_names_in_use() if name not in listed | {"_autograd"}}
    assert not missing, f"add these to docs/design.md, each with the test that notices its loss: {sorted(missing)}"


@pytest.mark.parametrize("row", BORROWED, ids=lambda row: row[1])
def test_what_is_listed_is_borrowed_where_it_says(row):
    _, names, files, tests = row
    for file in words(files):
        text = (PACKAGE / file).read_text(encoding="utf-8")
        assert any(name in text for name in words(names)), f"{file} uses none of {names}"
    assert all(any(name in text_of(f"cached_ds/{file}") for file in words(files)) for name in words(names)), row
    for test in words(tests):
        file, name = test.split("::")
        assert re.search(rf"^def {name}\(", text_of(file), flags=re.MULTILINE), f"no {test}"


def test_the_picture_and_the_table_have_the_same_hand_overs():
    step = section(DESIGN, "## A step")
    picture = {int(number) for number in re.findall(r"\((\d+)\)", step.split("```")[1])}
    table = [int(row[0]) for row in table_rows(step)]
    assert table == list(range(1, 12)) and picture == set(table)


def test_files_and_rooms_that_the_page_names_exist():
    code = re.sub(r"```.*?```", "", DESIGN, flags=re.DOTALL)
    named = {word for word in words(code) if re.fullmatch(r"[\w/]+(\.py|/)", word)} - {"document_parallel/"}
    missing = [
        word for word in named if not (PACKAGE / word).exists() and not list(PACKAGE.rglob(word.rsplit("/", 1)[-1]))
        and not (ROOT / word).exists()
    ]  # fmt: skip
    assert named and not missing, missing
