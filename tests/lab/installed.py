"""Python as if `pip install cached_ds`, with or without extras, had installed all there is.

A folder of links stands in for site-packages: neither an import nor a look at a package's metadata finds anything else.
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers.repo import ROOT
from lab import commands

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, with these extras; an extra may consist of others."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    asked = [Requirement(line) for lines in lists for line in lines]
    others = [extra for needed in asked if needed.name == PROJECT["name"] for extra in needed.extras]
    outside = [needed for needed in asked if needed.name != PROJECT["name"]]
    return outside + (requirements(*others) if others else [])


def distributions(asked: list[Requirement]) -> dict[str, Distribution]:
    """All that pip would install for it, by name: what is asked for, what that requires, and so on."""
    found: dict[str, Distribution] = {}
    seen, wanted = set(), [(needed, "") for needed in asked]
    while wanted:
        requirement, extra = wanted.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        new = {(name, extra) for extra in ("", *requirement.extras)} - seen
        seen |= new
        found.setdefault(name, distribution(name))
        wanted += [(Requirement(line), extra) for _, extra in new for line in found[name].requires or ()]
    return found


def site_packages(folder: Path, *extras: str) -> Path:
    """Links to what `pip install cached_ds[extras]` installs and nothing else, in `folder`; returns it."""
    folder.mkdir()
    return link(folder, requirements(*extras))


def link(folder: Path, asked: list[Requirement]) -> Path:
    """Links to what pip would install for `asked`, in `folder`; returns it."""
    for package in distributions(asked).values():
        for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (folder / name).exists():
                (folder / name).symlink_to(package.locate_file(name))
    return folder


def run(site: Path, *words: object):
    """Run a program with these packages; -S keeps out those that are really installed."""
    path = ":".join(map(str, (site, ROOT, ROOT / "tests")))
    return commands.run([sys.executable, "-S", *words], PYTHONPATH=path)
