"""The rooms of benchmarks/: scripts of make at the root, a sign in every folder, imports in one direction."""

from __future__ import annotations

import ast
import re

import pytest

from harness.machine import BENCHMARKS
from helpers.repo import ROOT, nodes, parsed

BELOW = {
    "peers": (),
    "subjects": ("peers",),
    "probes": ("subjects",),
    "reports": ("subjects", "probes"),
    "harness": ("reports",),
    "workers": ("subjects", "peers", "probes"),
    "stages": ("subjects", "probes", "workers"),
}
SCRIPTS = set(re.findall(r"benchmarks/(\w+\.py)", (ROOT / "Makefile").read_text(encoding="utf-8")))


def test_the_root_holds_exactly_the_scripts_of_make():
    assert {path.name for path in BENCHMARKS.iterdir() if path.is_file()} == SCRIPTS | {"README.md"}


def test_the_readme_names_every_target_and_every_folder():
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"^\| `make (\w+)`", text, flags=re.MULTILINE)
    assert {f"{target}.py" for target in targets} == SCRIPTS and len(targets) == len(SCRIPTS)
    assert all(f"{room}/" in text for room in BELOW)


def test_the_folders_are_those_of_the_direction():
    assert {path.name for path in BENCHMARKS.iterdir() if path.is_dir()} - {"__pycache__"} == set(BELOW)


@pytest.mark.parametrize("room", BELOW)
def test_every_folder_has_its_sign_and_few_files(room):
    sign = ast.get_docstring(parsed(BENCHMARKS / room / "__init__.py"))
    assert 3 <= len(sign.splitlines()) <= 8
    assert len(list((BENCHMARKS / room).glob("*.py"))) <= 10


def test_imports_go_in_one_direction():
    upward = [
        f"{place} imports {node.module}"
        for room, below in BELOW.items()
        for place, node in nodes(ast.ImportFrom, folders=(f"benchmarks/{room}",))
        if node.module.split(".")[0] in {*BELOW} - {room, *below}
    ]
    assert not upward, upward
