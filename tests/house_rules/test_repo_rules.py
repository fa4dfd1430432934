"""The house rules that a machine can check: docstrings, sizes, and what must not stand in any file."""

from __future__ import annotations

import ast
import re

from helpers.repo import FOLDERS, nodes, parsed, shown, source_files, text_files

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_every_module_opens_with_a_docstring():
    missing = [shown(path) for path in source_files(*FOLDERS) if not ast.get_docstring(parsed(path))]
    assert not missing, f"modules without a docstring: {missing}"


def test_files_and_functions_stay_small():
    long = [
        f"{shown(path)}: {count} lines"
        for path in source_files(*FOLDERS)
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    ]
    long += [
        f"{place} {node.name}: {count} lines"
        for place, node in nodes(*FUNCTIONS, folders=FOLDERS)
        if (count := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, f"split these: {long}"


def test_public_names_have_docstrings():
    missing = []
    for path in source_files("cached_ds", "launch", "benchmarks"):
        owners = [parsed(path), *(node for node in parsed(path).body if isinstance(node, ast.ClassDef))]
        for node in (node for owner in owners if not owner_is_private(owner) for node in owner.body):
            named = isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):
                missing.append(f"{shown(path)}:{node.lineno} {node.name}")
    assert not missing, f"public names without a docstring: {missing}"


def owner_is_private(owner: ast.Module | ast.ClassDef) -> bool:
    return isinstance(owner, ast.ClassDef) and owner.name.startswith("_")


# Signatures that are somebody else's, and the one that users' scripts rely on.
POSITIONAL_OPTIONS = {
    "attach", "forward", "compute_loss", "prediction_step", "save_model", "get", "construct_mapping",
}  # fmt: skip

TRAINER = re.compile(r"cached_ds/training/trainer\.py:\d+ ")  # transformers' Trainer(model, args)


def positional_options(function: ast.FunctionDef) -> list[str]:
    """Arguments with a default that can be given by position, the first argument apart."""
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    first = 1 + (names[:1] in (["self"], ["cls"]))
    return names[max(first, len(names) - len(function.args.defaults)) :]


def test_options_are_keyword_only():
    found = [
        f"{place} {node.name}: {', '.join(options)}"
        for place, node in nodes(ast.FunctionDef, folders=("cached_ds", "launch"))
        if node.name not in POSITIONAL_OPTIONS | {"__call__"} and (options := positional_options(node))
    ]
    found = [option for option in found if not (TRAINER.match(option) and option.endswith("__init__: args"))]
    assert not found, f"give these a `*`: {found}"


def test_annotations_are_postponed():
    missing = [
        shown(path)
        for path in source_files(*FOLDERS)
        if len(parsed(path).body) > 1 and "from __future__ import annotations" not in path.read_text(encoding="utf-8")
    ]
    assert not missing, f"without `from __future__ import annotations`: {missing}"


def swallows_anything(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    broad = any(kind is None or ast.unparse(kind) in ("Exception", "BaseException") for kind in caught)
    raises_again = isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None
    return broad and not raises_again


def test_no_bare_or_broad_except():
    broad = [place for place, node in nodes(ast.ExceptHandler, folders=FOLDERS) if swallows_anything(node)]
    assert not broad, f"name the errors that are expected, or end with a bare raise: {broad}"


def test_only_the_command_line_prints():
    prints = [
        place
        for place, node in nodes(ast.Call, folders=("cached_ds",))
        if isinstance(node.func, ast.Name) and node.func.id == "print" and not place.startswith("cached_ds/cli.py")
    ]
    assert not prints, f"print calls: {prints}"


def test_nothing_is_left_for_later():
    words = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
    left = [shown(path) for path, text in text_files() if words.search(text)]
    assert not left, f"unfinished: {left}"


def test_no_machine_paths_or_registry_hosts():
    folders = [f"/{name}/" for name in ("work", "root", "home", "Users")]
    hosts = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch", "org"))]
    pattern = re.compile(r"(?<![\w.}/-])(" + "|".join(folders) + ")|" + "|".join(re.escape(host) for host in hosts))
    found = [
        f"{shown(path)}:{number}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, f"paths or hosts of one machine: {found}"
