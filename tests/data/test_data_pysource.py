"""`pysource`: docstrings are really gone, splits are disjoint and stable, files without a summary are left out."""

from __future__ import annotations

import ast
import gc
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cached_ds.data import DataArguments, load_splits
from cached_ds.data.sources import pysource
from cached_ds.data.sources.docstrings import first_paragraph, leading_docstring, parse, remove_docstrings
from cached_ds.data.sources.pysource import find_sources, library_roots

STDLIB = Path(sysconfig.get_path("stdlib"))
FILLER = "VALUE = 1  # a comment\n" * 200


def docstrings(source: str) -> list[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    return [text for node in nodes if (text := ast.get_docstring(node)) is not None]


def without_docstrings(source: str) -> str:
    """What is left of the program, with bodies of docstrings alone written as `...`; an oracle through the tree."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            while ast.get_docstring(node) is not None:
                del node.body[0]
            if not node.body and not isinstance(node, ast.Module):
                node.body = [ast.Expr(ast.Constant(...))]
    return ast.unparse(tree)


@pytest.mark.parametrize("name", ["argparse.py", "dataclasses.py", "typing.py", "json/decoder.py", "heapq.py"])
def test_docstrings_are_gone_and_the_program_stays(name: str) -> None:
    source = (STDLIB / name).read_text()
    text = remove_docstrings(source)
    assert text is not None and docstrings(source) and not docstrings(text)
    assert ast.unparse(ast.parse(text)) == without_docstrings(source)
    assert text.count("#") >= 0.8 * source.count("#"), "comments must stay"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('"""doc"""\nx = 1\n', "x = 1\n"),
        ('def f():\n    """doc"""\n', "def f():\n    ...\n"),
        ('def f(): "doc"\n', "def f(): ...\n"),
        ('class C:\n    """doc\n    more"""  # why\n    x = 1\n', "class C:\n    ...  # why\n    x = 1\n"),
        ('def f():\n    "one"\n    "two"\n    return 1\n', "def f():\n    return 1\n"),
        ('async def f():\n    "é"; return "é"\n', 'async def f():\n    ...; return "é"\n'),
        ('if x:\n    def f():\n        "doc"\n        return 1\n', "if x:\n    def f():\n        return 1\n"),
        (
            'try:\n    pass\nexcept E:\n    class C:\n        "doc"\n',
            "try:\n    pass\nexcept E:\n    class C:\n        ...\n",
        ),
        (
            'match x:\n    case 1:\n        def f():\n            "doc"\n            y\n',
            "match x:\n    case 1:\n        def f():\n            y\n",
        ),
        ('x = 1\n"""no docstring"""\n', 'x = 1\n"""no docstring"""\n'),
    ],
)
def test_cut_out_of_the_text(source: str, text: str) -> None:
    assert remove_docstrings(source) == text


def test_unreadable_source_is_none_and_the_collector_is_as_before() -> None:
    assert parse("print 'python 2'") is None and remove_docstrings("{% template %}") is None
    assert gc.isenabled()
    gc.disable()
    try:
        assert parse("x = 1") is not None and not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("source", "docstring"),
    [
        ('#!/usr/bin/env python\n# comment\n\n"""Doc.\n\nMore."""\nx = 1', "Doc.\n\nMore."),
        ("r'''Raw \\d'''\n", "Raw \\d"),
        ('"one line"  # comment\n', "one line"),
        ('"""escaped \\""" quote"""\n', 'escaped """ quote'),
        ('"""broken \\u escape"""\n', None),
        ("import os\n'''late'''\n", None),
        ('"""not" alone""" % x\n', None),
        ("", None),
    ],
)
def test_leading_docstring(source: str, docstring: str | None) -> None:
    assert leading_docstring(source) == docstring


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1))
def test_leading_docstring_agrees_with_the_parser(text: str) -> None:
    source = repr(text) + "\nx = 1\n"
    assert leading_docstring(source) == ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize(
    ("docstring", "paragraph"),
    [
        ("One\n  two.\n\nThree.", "One two."),
        ("Title\n=====\n\nThe   text.", "The text."),
        ("Title\n~~~~~", ""),
        ("", ""),
    ],
)
def test_first_paragraph(docstring: str, paragraph: str) -> None:
    assert first_paragraph(docstring) == paragraph


def library(root: Path, files: dict[str, str]) -> list[str]:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return [file.path for file in find_sources([root])]


def test_files_that_make_no_document_are_left_out(tmp_path: Path) -> None:
    def module(summary: str) -> str:
        return f'"""{summary}"""\n{FILLER}'

    found = library(
        tmp_path,
        {
            "good.py": module("A summary of good length."),
            "short.py": '"""A summary of a short file."""\n',
            "brief.py": module("Too brief."),
            "long.py": module("Too long. " * 100),
            "none.py": FILLER,
            "legal.py": module("Copyright 2026 by somebody or other."),
            "notes.txt": module("A summary of a text file."),
            "tests/test_x.py": module("A summary of a test file."),
            "cached_ds/own.py": module("A summary of our own file."),
            "site-packages/other.py": module("A summary of another library."),
        },
    )
    assert found == ["good.py"]


def test_a_summary_is_used_once_whatever_the_order_of_the_folder(tmp_path: Path) -> None:
    twins = {f"{name}.py": f'"""The very same summary."""\n{FILLER}' for name in "abcdef"}
    first = library(tmp_path / "one", twins)
    assert len(first) == 1 and first == library(tmp_path / "two", dict(reversed(twins.items())))


def test_undecodable_files_are_left_out(tmp_path: Path) -> None:
    head = b'"""A summary of good length."""\n'
    (tmp_path / "latin.py").write_bytes(head + b"# \xe9\n" * 2_000)
    (tmp_path / "binary.py").write_bytes(head + b"\0" * 4_000)
    assert find_sources([tmp_path]) == []


def test_the_standard_library() -> None:
    arguments = DataArguments(dataset_name="pysource", dataset_config_name="stdlib")
    splits = load_splits(arguments)
    assert len(splits["train"]) > 150 and min(len(splits["validation"]), len(splits["test"])) >= 5
    seen: set[str] = set()
    for rows in splits.values():
        summaries, texts = set(rows["summary"]), rows["text"][:]
        assert len(summaries) == len(rows) and not seen & summaries
        seen |= summaries
        assert all(len(text) in pysource.DOCUMENT_CHARACTERS for text in texts)
        assert all(not docstrings(text) for text in texts[:20])
    again = load_splits(arguments)
    assert {split: rows.cache_files for split, rows in again.items()} == {s: r.cache_files for s, r in splits.items()}


def test_sizes_of_the_splits() -> None:
    files = find_sources(library_roots("stdlib"))
    assert files == find_sources(library_roots("stdlib")) and files == sorted(files)
    assert 0.85 < sum(file.split == "train" for file in files) / len(files) < 0.95


def test_scopes() -> None:
    assert library_roots("stdlib") == [STDLIB]
    assert STDLIB in library_roots("all") and Path(sysconfig.get_path("purelib")) in library_roots("all")
    with pytest.raises(
        ValueError, match=r"dataset_config_name='everything': pysource has the configurations all, stdl"
    ):
        load_splits(DataArguments(dataset_name="pysource", dataset_config_name="everything"))
