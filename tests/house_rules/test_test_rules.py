"""The rules of the tests themselves: where they stand, and what they may import."""

from __future__ import annotations

import ast
import subprocess

import pytest

from helpers.repo import ROOT, files_in, nodes, parsed, shown, source_files

TESTS = ROOT / "tests"
SHARED = {"helpers", "lab"}  # packages of what tests share
BESIDE_THE_ROOMS = SHARED | {
    "parity",
    "launch",
    "house_rules",
    "hugging_face",
    "benchmarks",
    "versions",
    "fuzz",
    "faults",
}
ROOMS = {path.parent.name for path in (ROOT / "cached_ds").glob("*/__init__.py")}
TEST_MODULES = {path.stem for path in source_files("tests") if path.stem.startswith("test_")} | {"conftest"}
FOLDERS = {path.name for path in TESTS.iterdir() if path.is_dir()} - {"__pycache__"}
SHELL = [path for path in files_in("tests") if path.read_bytes().startswith((b"#!/usr/bin/env bash", b"#!/bin/sh"))]


def imported(node):
    """The parts of every name that an import statement leads to."""
    if isinstance(node, ast.Import):
        return {part for name in node.names for part in name.name.split(".")}
    return {*(node.module or "").split("."), *(name.name for name in node.names)}


def imports(*folders):
    """Place and parts of every import."""
    return [(place, imported(node)) for place, node in nodes(ast.Import, ast.ImportFrom, folders=folders)]


def test_nothing_imports_a_test_module():
    found = [place for place, parts in imports("tests", "benchmarks", "cached_ds", "launch") if parts & TEST_MODULES]
    assert not found, f"what two tests need belongs into tests/helpers or tests/lab: {found}"


def test_helpers_start_no_commands():
    found = [place for place, parts in imports("tests/helpers") if "lab" in parts]
    assert not found, f"tests/lab builds on tests/helpers, not the other way round: {found}"


def test_folders_mirror_the_rooms_of_the_package():
    assert FOLDERS >= ROOMS, f"rooms without tests: {sorted(ROOMS - FOLDERS)}"
    assert FOLDERS <= ROOMS | BESIDE_THE_ROOMS, f"folders of no room: {sorted(FOLDERS - ROOMS - BESIDE_THE_ROOMS)}"


def test_what_tests_share_has_its_sign_and_holds_no_tests():
    for name in SHARED:
        assert ast.get_docstring(parsed(TESTS / name / "__init__.py"))
        assert not list((TESTS / name).rglob("test_*.py"))


def test_folders_of_tests_are_no_packages():
    """Pytest would import their modules by other names, and no longer find `helpers` and `lab` beside them."""
    found = [shown(path) for path in TESTS.rglob("__init__.py") if path.relative_to(TESTS).parts[0] not in SHARED]
    assert not found, found


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_programs_of_the_shell_can_be_read(path):
    subprocess.run(["bash", "-n", path], check=True)
