"""The house rules that a machine can check: sizes, docstrings, import direction, what must not stand in any file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("cached_ds", "launch", "ds_configs", "tests", "benchmarks")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40

# Data flows one way: a module of cached_ds imports from its own line or a line above it. A new module gets its place here.
LAYERS = (
    ("names", "config_files"),
    ("config",),
    ("windows", "streams", "autocast", "families", "guards"),
    ("replay",),
    ("windowed",),
    ("attach",),
    ("ds_config", "zero", "fsdp"),
    ("sampler", "progress", "metrics", "data"),
    ("trainer",),
    ("cli", "__init__"),
)
LAYER_OF = {module: number for number, modules in enumerate(LAYERS) for module in modules}
ENGINE_FILES = {"zero.py", "fsdp.py", "ds_config.py"}
ENGINES = ("deepspeed", "torch.distributed.fsdp")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files_in(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if "__pycache__" not in path.parts and path.name != ".DS_Store")


def source_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in files_in(ROOT / folder) if path.suffix == ".py"]


def text_files() -> Iterator[tuple[Path, str]]:
    """Yield the project's own files, not what lies beside them (.venv, outputs, caches)."""
    beside = (path for path in ROOT.iterdir() if path.is_file() and path.name not in ("LICENSE", ".git"))
    for path in [*beside, *(path for folder in (*FOLDERS, "docs", ".ci") for path in files_in(ROOT / folder))]:
        if path.suffix not in (".png", ".parquet", ".arrow", ".gz"):
            yield path, path.read_text(encoding="utf-8")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def nodes(kind: type | tuple[type, ...], *folders: str) -> Iterator[tuple[str, ast.AST]]:
    for path in source_files(*folders):
        for node in ast.walk(parsed(path)):
            if isinstance(node, kind):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


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


def test_every_module_opens_with_a_docstring():
    missing = [path.name for path in source_files(*FOLDERS) if not ast.get_docstring(parsed(path))]
    assert not missing, f"modules without a docstring: {missing}"


def test_files_and_functions_stay_small():
    long = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for path in source_files(*FOLDERS)
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    ]
    long += [
        f"{place} {node.name}: {count} lines"
        for place, node in nodes((ast.FunctionDef, ast.AsyncFunctionDef), *FOLDERS)
        if (count := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, f"split these: {long}"


def test_public_names_have_docstrings():
    missing = []
    for path in source_files("cached_ds", "launch", "benchmarks"):
        owners = [parsed(path), *(node for node in parsed(path).body if isinstance(node, ast.ClassDef))]
        for node in (node for owner in owners if not owner_is_private(owner) for node in owner.body):
            named = isinstance(node, (*Function.__args__, ast.ClassDef)) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):
                missing.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not missing, f"public names without a docstring: {missing}"


def owner_is_private(owner: ast.Module | ast.ClassDef) -> bool:
    return isinstance(owner, ast.ClassDef) and owner.name.startswith("_")


def test_every_module_has_its_layer():
    modules = {package_path(path)[0] for path in source_files("cached_ds")}
    assert modules <= LAYER_OF.keys(), f"give these a place in LAYERS: {sorted(modules - LAYER_OF.keys())}"


def test_lower_rooms_never_import_upper_ones():
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {dotted}"
        for path in source_files("cached_ds")
        for line, dotted in imports(path)
        if dotted.split(".")[0] == "cached_ds" and LAYER_OF[layered_module(dotted)] > LAYER_OF[package_path(path)[0]]
    ]
    assert not upward, f"imports against the direction of LAYERS: {upward}"


def test_the_package_imports_no_other_folder():
    outside = [
        f"{path.relative_to(ROOT)}:{line} imports {dotted}"
        for path in source_files("cached_ds")
        for line, dotted in imports(path)
        if dotted.split(".")[0] in ("launch", "tests", "benchmarks")
    ]
    assert not outside, outside


def test_engines_stay_in_their_files():
    strays = [
        f"{path.relative_to(ROOT)}:{line} imports {dotted}"
        for path in source_files("cached_ds")
        if path.relative_to(ROOT / "cached_ds").as_posix() not in ENGINE_FILES
        for line, dotted in imports(path)
        if any(dotted == engine or dotted.startswith(f"{engine}.") for engine in ENGINES)
    ]
    assert not strays, f"only {sorted(ENGINE_FILES)} import {ENGINES}: {strays}"


def test_annotations_are_postponed():
    missing = [
        str(path.relative_to(ROOT))
        for path in source_files(*FOLDERS)
        if len(parsed(path).body) > 1 and "from __future__ import annotations" not in path.read_text(encoding="utf-8")
    ]
    assert not missing, f"without `from __future__ import annotations`: {missing}"


def test_no_bare_or_broad_except():
    broad = []
    for place, node in nodes(ast.ExceptHandler, *FOLDERS):
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in caught):
            broad.append(place)
    assert not broad, f"name the errors that are expected: {broad}"


def test_only_the_command_line_prints():
    prints = [
        place
        for place, node in nodes(ast.Call, "cached_ds")
        if isinstance(node.func, ast.Name) and node.func.id == "print" and not place.startswith("cached_ds/cli.py")
    ]
    assert not prints, f"print calls: {prints}"


def test_nothing_is_left_for_later():
    words = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
    left = [str(path.relative_to(ROOT)) for path, text in text_files() if words.search(text)]
    assert not left, f"unfinished: {left}"


def test_no_machine_paths_or_registry_hosts():
    folders = [f"/{name}/" for name in ("work", "root", "home", "Users")]
    hosts = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch", "org"))]
    pattern = re.compile(r"(?<![\w.}/-])(" + "|".join(folders) + ")|" + "|".join(re.escape(host) for host in hosts))
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, f"paths or hosts of one machine: {found}"


def readme_tree(text: str) -> dict[str, str]:
    """Return path -> comment from the README's fenced block that starts with a line `cached_ds/`.

    A folder ends in a slash and stands alone or before its comment; what lies in it is indented by two more spaces; a
    comment stands at least two spaces behind its name.
    """
    block = re.search(r"^```\w*\n(cached_ds/.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert block, "README.md has no fenced block that starts with a line `cached_ds/`: the tree of files"
    entries: dict[str, str] = {}
    parents: list[str] = []
    for line in filter(str.strip, block[1].splitlines()):
        indent, name, comment = re.fullmatch(r"((?:  )*)(\S+)(?:\s{2,}(.*))?", line).groups()
        parents[len(indent) // 2 :] = [name]
        if not name.endswith("/"):
            entries["".join(parents)] = comment or ""
    return entries


def test_readme_tree_equals_the_files():
    entries = readme_tree((ROOT / "README.md").read_text(encoding="utf-8"))
    files = {path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in files_in(ROOT / folder)}
    missing, extra = sorted(files - entries.keys()), sorted(entries.keys() - files)
    assert not missing, f"files that the README's tree does not list: {missing}"
    assert not extra, f"listed in the README's tree, but not there: {extra}"
    silent = sorted(path for path, comment in entries.items() if not comment)
    assert not silent, f"listed in the README's tree without a comment: {silent}"


def test_readme_tree_is_read_as_written():
    text = (
        "x\n\n```\ncached_ds/\n  a.py     what a is\n  data/     the data\n    b.py  what b is\ntests/\n  c.py\n```\n"
    )
    assert readme_tree(text) == {"cached_ds/a.py": "what a is", "cached_ds/data/b.py": "what b is", "tests/c.py": ""}
