"""Rooms of the package: lower ones never import upper ones, no circle, and each room says what is in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.repo import ROOT, parsed, shown, source_files

PACKAGE = ROOT / "cached_ds"
# Data flows one way: a room imports from rooms of lower floors only. A new room gets its place here, and in one half.
FLOORS = (
    ("settings", "leaving", "op_locks"),
    ("models", "provenance", "watch", "left_memory"),
    ("windows", "data", "ranks"),
    ("replay",),
    ("planning", "document_parallel"),
    ("encoder", "decoder"),
    ("attachment",),
    ("fsdp", "zero"),
    ("checkpoints", "guards"),
    ("training", "evaluation"),
    ("run",),
    ("doctor", "export"),
    ("__init__", "cli"),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LAUNCH_HALF = {"provenance", "data", "ranks", "evaluation", "run", "doctor", "export", "cli"}
LIBRARY_HALF = FLOOR_OF.keys() - LAUNCH_HALF
ENGINE_FILES = {
    "zero.py",
    "fsdp.py",
    "checkpoints/zero_state.py",
    "export/weights.py",
    "settings/deepspeed_keys.py",
    "settings/deepspeed_values.py",
}
ENGINES = ("deepspeed", "torch.distributed.fsdp")
FILES = source_files("cached_ds")
MAX_FILES = 10
SIGN_LINES = range(3, 9)


def name_of(path: Path) -> str:
    """Dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def room_of(module: str) -> str:
    """The room of a module, or the module itself where it stands at the root."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that a file imports, at its top or in a function."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{shown(path)}:{node.lineno}: imports are absolute here"
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def arrows() -> Iterator[tuple[str, str, str]]:
    """Yield place, importing module and imported module for every import within the package."""
    for module, path in MODULES.items():
        for line, dotted in imports(path):
            if dotted.split(".")[0] == "cached_ds":
                target = dotted if dotted in MODULES else dotted.rpartition(".")[0]
                yield f"{shown(path)}:{line} imports {dotted}", module, target


def test_every_room_has_its_floor():
    rooms = {room_of(module) for module in MODULES}
    assert rooms == FLOOR_OF.keys(), f"floors and rooms differ: {sorted(rooms ^ FLOOR_OF.keys())}"


def test_lower_rooms_never_import_upper_ones():
    upward = [
        place
        for place, module, target in arrows()
        if room_of(module) != room_of(target) and FLOOR_OF[room_of(target)] >= FLOOR_OF[room_of(module)]
    ]
    assert not upward, f"imports against the direction of FLOORS: {upward}"


def test_the_library_half_reaches_nothing_of_the_launch_half():
    crossing = [
        place
        for place, module, target in arrows()
        if room_of(module) in LIBRARY_HALF and room_of(target) not in LIBRARY_HALF
    ]
    assert not crossing, f"these would run on import of the library: {crossing}"


def test_no_file_is_in_a_circle():
    below: dict[str, set[str]] = {module: set() for module in MODULES}
    for _, module, target in arrows():
        below[module].add(target)
    while below:
        free = {module for module, targets in below.items() if not targets & below.keys()}
        assert free, f"a circle among {sorted(below)}"
        below = {module: targets for module, targets in below.items() if module not in free}


@pytest.mark.parametrize("sign", [path for path in FILES if path.name == "__init__.py"], ids=shown)
def test_every_room_says_what_is_in_it(sign):
    files = [path for path in sign.parent.glob("*.py") if path.name != "__init__.py"]
    lines = (ast.get_docstring(parsed(sign)) or "").splitlines()
    if sign.parent != PACKAGE:
        assert len(lines) in SIGN_LINES, f"{shown(sign)}: {len(lines)} lines"
    assert len(files) <= MAX_FILES, f"{shown(sign.parent)} holds {len(files)} files"


def test_every_folder_has_a_sign():
    bare = {path.parent for path in FILES if not (path.parent / "__init__.py").is_file()}
    assert not bare, f"folders without __init__.py: {sorted(map(shown, bare))}"


def test_the_package_imports_no_other_folder():
    outside = [
        f"{shown(path)}:{line} imports {dotted}"
        for path in FILES
        for line, dotted in imports(path)
        if dotted.split(".")[0] in ("launch", "tests", "benchmarks", "helpers", "lab")
    ]
    assert not outside, outside


def test_engines_stay_in_their_files():
    strays = [
        f"{shown(path)}:{line} imports {dotted}"
        for path in FILES
        if path.relative_to(PACKAGE).as_posix() not in ENGINE_FILES
        for line, dotted in imports(path)
        if any(dotted == engine or dotted.startswith(f"{engine}.") for engine in ENGINES)
    ]
    assert not strays, f"only {sorted(ENGINE_FILES)} import {ENGINES}: {strays}"
