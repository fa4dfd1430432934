"""The pages of docs/ keep their word: tables are the measured ones, every field has its row, every file its line."""

from __future__ import annotations

import ast
import re
import tomllib

import pytest

from helpers.pages import PAGES, blocks, fields_table, section, table_rows, text_of, trees
from helpers.repo import FOLDERS, files_in, nodes, shown

BLOCKS = [(path.name, *block) for path in PAGES for block in blocks(path.read_text(encoding="utf-8"))]
MEASURED = [block for block in BLOCKS if block[1].startswith("docs/measured/")]
TABLES = [block for block in BLOCKS if block not in MEASURED]


@pytest.mark.parametrize(("page", "name", "table"), MEASURED, ids=[block[1] for block in MEASURED])
def test_a_table_is_the_measured_one(page, name, table):
    assert table.strip() == text_of(name).strip(), f"docs/{page} does not show what is in {name}"


def test_every_measured_table_is_shown():
    named = {name for _, name, _ in MEASURED}
    assert named == {shown(path) for path in files_in("docs/measured") if path.suffix == ".md"}


@pytest.mark.parametrize(("page", "marker", "table"), TABLES, ids=[block[1] for block in TABLES])
def test_every_field_has_its_row(page, marker, table):
    right = fields_table(marker)
    assert table == right, f"between `<!-- {marker} -->` and `<!-- end -->` docs/{page} should have:\n{right}"


def test_the_settings_have_their_tables():
    names = {marker.rpartition(".")[2] for _, marker, _ in TABLES}
    assert names == {"CachedConfig", "ModelArguments", "DataArguments", "GuardArguments", "Limits", "WatchArguments"}


def test_the_index_lists_every_file():
    entries = {path: comment for path, comment in trees(text_of("docs/files.md")).items() if not path.endswith("/")}
    files = {shown(path) for folder in FOLDERS for path in files_in(folder)}
    missing, extra = sorted(files - entries.keys()), sorted(entries.keys() - files)
    assert not missing, f"files that docs/files.md does not list: {missing}"
    assert not extra, f"listed in docs/files.md, but not there: {extra}"
    silent = sorted(path for path, comment in entries.items() if not comment)
    assert not silent, f"listed in docs/files.md without a comment: {silent}"


def test_every_extra_has_its_row():
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    assert sorted(row[0].strip("`") for row in table_rows(section(text_of("docs/index.md"), "## Install"))) == sorted(
        extras
    )


def messages():
    """The texts in the package's code; what a message fills in is left out."""
    for _, node in nodes(ast.Constant, ast.JoinedStr, folders=("cached_ds",)):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in parts if is_text(part))


def is_text(node):
    return not isinstance(node, ast.Constant) or isinstance(node.value, str)


def test_refusals_are_worded_as_in_the_package():
    known = list(messages())
    for message, _ in table_rows(section(text_of("docs/troubleshooting.md"), "## Refused settings")):
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.strip("`").split("...")))
        assert any(map(pattern.search, known)), message


def test_a_tree_is_read_as_written():
    text = "x\n\n```\na/  what a is\n  b.py     what b is\n  c/\n    d.py  what d is\n```\n\n```\ne/\n  f.py\n```\n"
    assert trees(text) == {"a/": "what a is", "a/b.py": "what b is", "a/c/": "", "a/c/d.py": "what d is"} | {
        "e/": "",
        "e/f.py": "",
    }
