"""The repository as its own tests see it: the files of the covered folders, their text, their syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "launch" / "train.py"
FOLDERS = ("cached_ds", "launch", "ds_configs", "tests", "benchmarks")
BINARY = {".png", ".parquet", ".arrow", ".gz"}


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files_in(folder: str) -> list[Path]:
    found = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return sorted(path for path in found if "__pycache__" not in path.parts)


def source_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in files_in(folder) if path.suffix == ".py"]


def text_files() -> Iterator[tuple[Path, str]]:
    """Yield the project's own files, not what lies beside them (.venv, outputs, caches)."""
    beside = (path for path in ROOT.iterdir() if path.is_file() and path.name not in ("LICENSE", ".git"))
    for path in [*beside, *(path for folder in (*FOLDERS, "docs", ".ci") for path in files_in(folder))]:
        if path.suffix not in BINARY:
            yield path, path.read_text(encoding="utf-8")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def nodes(*kinds: type[ast.AST], folders: tuple[str, ...]) -> Iterator[tuple[str, ast.AST]]:
    """Yield place ("file:line") and node of every node of these kinds."""
    for path in source_files(*folders):
        for node in ast.walk(parsed(path)):
            if isinstance(node, kinds):
                yield f"{shown(path)}:{node.lineno}", node
