"""Docstrings of Python source: find the module's without parsing, take its first paragraph, cut all out of the text."""

from __future__ import annotations

import ast
import gc
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LEADING_STRING = re.compile(
    r"""(?:[ \t\f]*(?:\#[^\n]*)?\n)*     # blank lines and comments
        (?P<string>[rRuU]?(?:
            \"{3}(?:\\.|[^\\])*?\"{3} | '{3}(?:\\.|[^\\])*?'{3} |
            "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'
        ))[ \t]*(?:\#[^\n]*)?(?:\n|\Z)""",
    re.VERBOSE | re.DOTALL,
)
_UNDERLINE = re.compile(r"^[ \t]*([=~\-*#^+_.])\1{2,}[ \t]*$", re.MULTILINE)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def leading_docstring(source: str) -> str | None:
    """The module docstring, found without parsing the module; None if there is none or its escapes are broken."""
    match = _LEADING_STRING.match(source)
    if match is None:
        return None
    tree = parse(match["string"])
    return None if tree is None else ast.get_docstring(tree)


def first_paragraph(docstring: str) -> str:
    """The first paragraph that is not an underlined title, with runs of white space as single spaces."""
    for paragraph in re.split(r"\n[ \t]*\n", docstring.strip()):
        if not _UNDERLINE.search(paragraph):
            return " ".join(paragraph.split())
    return ""


def parse(source: str) -> ast.Module | None:
    """The syntax tree; None if this Python cannot read the source (templates, Python 2)."""
    with warnings.catch_warnings(), _collector_paused():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except SyntaxError:
            return None


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the cyclic garbage collector, which takes most of the time while a large tree is built."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def remove_docstrings(source: str) -> str | None:
    r"""The source without the docstrings of the module, its classes and its functions; comments and layout stay.

    A docstring on lines of its own goes with its lines; where it is all of a body, or shares a line with other code,
    `...` takes its place, so that the text remains Python. Line ends must be `\n`. None if the source cannot be read.
    """
    tree = parse(source)
    if tree is None:
        return None
    lines = source.encode().splitlines(keepends=True)
    for node, alone in sorted(_docstrings(tree), key=lambda found: found[0].lineno, reverse=True):
        _cut(lines, node, alone=alone)
    return b"".join(lines).decode()


def _docstrings(tree: ast.Module) -> Iterator[tuple[ast.Expr, bool]]:
    """Yield every docstring, and the bare strings that would become one, with whether it is the last of its body."""
    for node in _walk_statements(tree):
        if not isinstance(node, _DOCUMENTED):
            continue
        for statement in node.body:
            if not _is_string(statement):
                break
            assert isinstance(statement, ast.Expr)
            yield statement, statement is node.body[-1] and not isinstance(node, ast.Module)


def _walk_statements(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the tree down to statements only; expressions hold no docstrings and are most of the tree."""
    yield node
    for field in ("body", "orelse", "handlers", "finalbody", "cases"):
        children = getattr(node, field, ())
        if isinstance(children, list):
            for child in children:
                yield from _walk_statements(child)


def _is_string(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _cut(lines: list[bytes], node: ast.Expr, *, alone: bool) -> None:
    """Cut one statement out of the lines, in place; its columns count bytes of UTF-8, as the lines do."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    first, last = node.lineno - 1, node.end_lineno - 1
    before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
    own_lines = not before.strip() and not after.strip()
    lines[first : last + 1] = [] if own_lines and not alone else [before + b"..." + after]
