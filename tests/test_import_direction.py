"""Import direction: lower rooms never import upper ones, and engines stay in the files named after them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from repo import ROOT, parsed, shown, source_files

# Data flows one way: a module of cached_ds imports from its own line or from a line above it.
# A new module gets its place here.
LAYERS = (
    ("names", "config_files", "offload", "mpi"),
    ("config",),
    ("windows", "streams", "autocast", "families", "guards", "swapping", "attention", "budget", "compiled"),
    ("replay", "cutting", "source"),
    ("folding",),
    ("state", "layer_replay"),
    ("tuning", "layerwise"),
    ("windowed", "cross_attention", "streaming", "loss"),
    ("folded",),
    ("attach",),
    ("ds_config", "zero", "fsdp"),
    ("sampler", "progress", "metrics", "data", "shapes", "summarize", "report", "leaving", "ranks", "resuming"),
    ("trainer", "command_line", "rank_logs"),
    ("agreement",),
    ("rendezvous",),
    ("startup",),
    ("arguments",),
    ("build", "doctor"),
    ("cli", "__init__"),
)
LAYER_OF = {module: number for number, modules in enumerate(LAYERS) for module in modules}
ENGINE_FILES = {"zero.py", "fsdp.py", "ds_config.py"}
ENGINES = ("deepspeed", "torch.distributed.fsdp")


def package_path(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT / "cached_ds").with_suffix("").parts


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything a file of cached_ds imports, relative imports resolved."""
    package = ("cached_ds", *package_path(path)[:-1])
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{stem}.{name.name}") for name in node.names)


def layered_module(dotted: str) -> str:
    """Return the module of cached_ds that a dotted name leads to; the package itself where it is none."""
    second = dotted.split(".")[1] if "." in dotted else "__init__"
    is_module = (ROOT / "cached_ds" / second).is_dir() or (ROOT / "cached_ds" / f"{second}.py").is_file()
    return second if is_module else "__init__"


def test_every_module_has_its_layer():
    modules = {package_path(path)[0] for path in source_files("cached_ds")}
    assert modules <= LAYER_OF.keys(), f"give these a place in LAYERS: {sorted(modules - LAYER_OF.keys())}"


def test_lower_rooms_never_import_upper_ones():
    upward = [
        f"{shown(path)}:{line} imports {dotted}"
        for path in source_files("cached_ds")
        for line, dotted in imports(path)
        if dotted.split(".")[0] == "cached_ds" and LAYER_OF[layered_module(dotted)] > LAYER_OF[package_path(path)[0]]
    ]
    assert not upward, f"imports against the direction of LAYERS: {upward}"


def test_the_package_imports_no_other_folder():
    outside = [
        f"{shown(path)}:{line} imports {dotted}"
        for path in source_files("cached_ds")
        for line, dotted in imports(path)
        if dotted.split(".")[0] in ("launch", "tests", "benchmarks")
    ]
    assert not outside, outside


def test_engines_stay_in_their_files():
    strays = [
        f"{shown(path)}:{line} imports {dotted}"
        for path in source_files("cached_ds")
        if path.relative_to(ROOT / "cached_ds").as_posix() not in ENGINE_FILES
        for line, dotted in imports(path)
        if any(dotted == engine or dotted.startswith(f"{engine}.") for engine in ENGINES)
    ]
    assert not strays, f"only {sorted(ENGINE_FILES)} import {ENGINES}: {strays}"
