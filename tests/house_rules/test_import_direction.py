"""Import direction: lower rooms never import upper ones, and engines stay in the files named after them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from helpers.repo import ROOT, parsed, shown, source_files

# Data flows one way: a module of cached_ds imports from its own line or from a line above it.
# A new module gets its place here.
LAYERS = (
    ("settings.unknown_names", "settings.config_files", "replay.offload", "ranks.mpi", "replay.sums"),
    ("settings.config",),
    (
        "windows.cut",
        "replay.rng",
        "replay.autocast",
        "models.families",
        "encoder.guards",
        "models.class_swap",
        "decoder.tile_kernels",
        "planning.budget",
        "planning.compiled",
    ),
    ("replay.by_window", "windows.passes", "decoder.document_states"),
    ("replay.window_batch",),
    ("encoder.state", "replay.by_layer"),
    ("planning.tuner", "encoder.layerwise"),
    ("encoder.windowed", "decoder.replay_by_tile", "decoder.cross_attention", "decoder.chunked_loss"),
    ("encoder.layered",),
    ("attachment",),
    ("settings.deepspeed_keys", "zero", "fsdp"),
    (
        "training.sampler",
        "training.progress",
        "evaluation.metrics",
        "data",
        "models.shapes",
        "evaluation.summarize",
        "evaluation.curves",
        "leaving",
        "ranks.discovery",
        "training.checkpoints",
    ),
    ("training.trainer", "run.flags", "ranks.logs"),
    ("ranks.agreement",),
    ("ranks.rendezvous",),
    ("ranks.startup",),
    ("run.arguments",),
    ("run.build", "doctor"),
    ("cli", "__init__"),
)
LAYER_OF = {module: number for number, modules in enumerate(LAYERS) for module in modules}
ENGINE_FILES = {"zero.py", "fsdp.py", "settings/deepspeed_keys.py"}
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
    """Return the name in LAYERS of what a dotted name leads to; the package itself where it is none."""
    parts = dotted.split(".")[1:]
    names = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next((name for name in names if name in LAYER_OF), "__init__")


def own_layer(path: Path) -> int | None:
    """Return the layer of a file; None for the sign of a room."""
    dotted = ".".join(("cached_ds", *package_path(path)))
    is_sign = path.name == "__init__.py" and layered_module(dotted) == "__init__"
    return None if is_sign and len(package_path(path)) > 1 else LAYER_OF[layered_module(dotted)]


def test_every_module_has_its_layer():
    modules = {".".join(("cached_ds", *package_path(path))) for path in source_files("cached_ds")}
    homeless = {name for name in modules if layered_module(name) == "__init__"} - {"cached_ds.__init__"}
    homeless = {name for name in homeless if not name.endswith(".__init__")}
    assert not homeless, f"give these a place in LAYERS: {sorted(homeless)}"


def test_lower_rooms_never_import_upper_ones():
    upward = [
        f"{shown(path)}:{line} imports {dotted}"
        for path in source_files("cached_ds")
        if (layer := own_layer(path)) is not None
        for line, dotted in imports(path)
        if dotted.split(".")[0] == "cached_ds" and LAYER_OF[layered_module(dotted)] > layer
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
