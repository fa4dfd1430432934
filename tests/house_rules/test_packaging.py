"""What pip installs: tested versions, each library in its extra, and nothing imported that is not asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.metadata import Distribution, packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from cached_ds.settings.extras import EXTRA_OF
from cached_ds.settings.versions import TESTED
from helpers.pages import section, table_rows, text_of
from helpers.repo import FOLDERS, ROOT, parsed, shown, source_files
from lab.installed import PROJECT, distributions, requirements

LIGHT = {"accelerate", "psutil", "pyyaml", "torch", "transformers"}


def names(asked):
    return {canonicalize_name(requirement.name) for requirement in asked}


def pins(file="constraints.txt"):
    """The version of every package in a file of constraints."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def licence(package: Distribution) -> str:
    """What a package says of itself: an SPDX expression, classifiers, or a line of text."""
    stated = package.metadata
    kinds = [kind.partition("License :: OSI Approved :: ")[2] for kind in stated.get_all("Classifier", [])]
    return stated["License-Expression"] or ", ".join(filter(None, kinds)) or stated["License"].splitlines()[0]


def imported(path):
    """Line and name of every library that a file imports."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name.split(".")[0]) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module.split(".")[0]


def unasked(folders, allowed):
    """Imports of libraries that are in none of the allowed distributions."""
    distributions_of = packages_distributions()
    own = {part for path in source_files(*FOLDERS) for part in (*path.relative_to(ROOT).parts, path.stem)}
    return [
        f"{shown(path)}:{line} imports {library}"
        for path in source_files(*folders)
        for line, library in imported(path)
        if library not in sys.stdlib_module_names | own
        and not {canonicalize_name(name) for name in distributions_of.get(library, [])} & allowed
    ]


def test_few_libraries_are_needed():
    assert names(requirements()) == LIGHT


def test_lower_bounds_are_tested_versions():
    """The oldest of what `make compat` varies, and those of constraints.txt for everything else."""
    tested = pins() | pins("tests/versions/oldest.txt")
    for requirement in requirements("test"):
        lowest = next(part.version for part in requirement.specifier if part.operator == ">=")
        version = tested[canonicalize_name(requirement.name)]
        assert f"{version}.".startswith(f"{lowest}."), f"{requirement}, but tested with {version}"


def test_the_tested_ranges_are_the_same_everywhere():
    oldest, newest, installed = pins("tests/versions/oldest.txt"), pins("tests/versions/newest.txt"), pins()
    assert TESTED.keys() == oldest.keys() == newest.keys()
    for name, ends in TESTED.items():
        assert ends == (oldest[name], newest[name])
        assert Version(ends[0]) <= Version(installed[name]) <= Version(ends[1]), f"constraints.txt: {name}"
    rows = table_rows(section(text_of("docs/support.md"), "## Versions"))
    assert sorted(map(tuple, rows)) == [(name, oldest[name], installed[name], newest[name]) for name in sorted(TESTED)]


def test_all_that_is_installed_is_pinned():
    by_torch = distributions([Requirement("torch")]).keys()  # CUDA's libraries on some machines
    assert distributions(requirements("test")).keys() - by_torch <= pins().keys()


def test_licences_are_those_that_the_packages_state():
    installed, rows, listed = distributions(requirements("test")), [], set()
    for extra in (None, *(extra for extra in PROJECT["optional-dependencies"] if extra != "all")):
        for name in sorted(names(requirements(*filter(None, [extra]))) - listed):
            rows.append([name, extra or "–", licence(installed[name])])
            listed.add(name)
    assert table_rows(section(text_of("SECURITY.md"), "## Dependencies")) == rows
    copyleft = [name for name, package in installed.items() if "GPL" in licence(package) or "GNU" in licence(package)]
    assert not copyleft, f"SECURITY.md says that there are none: {copyleft}"


def test_every_optional_library_has_its_extra():
    extras = {name: extra for extra in set(EXTRA_OF.values()) for name in names(requirements(extra)) - LIGHT}
    assert {library.replace("_", "-"): extra for library, extra in EXTRA_OF.items()} == extras


def test_what_is_imported_is_asked_for():
    by_transformers = names(needed for line in requires("transformers") if not (needed := Requirement(line)).marker)
    strays = unasked(("cached_ds", "launch"), names(requirements("all")) | by_transformers)
    assert not strays, f"libraries that pyproject.toml does not ask for: {strays}"
    strays = unasked(("benchmarks", "tests"), names(requirements("test")) | by_transformers)
    assert not strays, f"libraries that the extra `test` does not ask for: {strays}"


def test_make_test_lints_first():
    recipe = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    places = [recipe.index(command) for command in ("ruff check", "ruff format --check", "bin/mypy", "-m pytest")]
    assert places == sorted(places)
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").endswith("exec make test\n")
