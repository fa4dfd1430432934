"""What the README and docs/support.md call tested is tested: every test they name is collected, with its families."""

from __future__ import annotations

import re

import pytest

from helpers import tiny
from helpers.pages import section, table_rows, text_of
from helpers.repo import ROOT

ENGINES = {"one process": "plain", "DDP": "ddp", "FSDP2": "fsdp2", "FSDP1": "fsdp1"}
ENGINES |= {f"ZeRO-{stage}": f"zero{stage}" for stage in range(4)}
COLUMNS = ("–", '`offload="cpu"`', '`offload="disk"`', "LoRA", "`compile=True`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`(?: \((\w+)=([\w-]+)\))?")

SUPPORT = text_of("docs/support.md")
MATRIX = table_rows(section(SUPPORT, "## Families, engines, schedules and options"))
OPTIONS = table_rows(section(SUPPORT, "## Options of the engines"))
COSTS = table_rows(section(SUPPORT, "## Costs"))


@pytest.fixture(scope="module")
def collected(request):
    """A function that gives the parameters of every case of a test, as pytest collects them."""
    modules = {}

    def cases(path, name):
        if path not in modules:
            module = pytest.Module.from_parent(request.session, path=ROOT / path)
            modules[path] = [item for item in module.collect() if isinstance(item, pytest.Function)]
        found = [item for item in modules[path] if item.originalname == name]
        assert found, f"docs/support.md names {path}::{name}, which pytest does not collect"
        return [item.callspec.params if hasattr(item, "callspec") else {} for item in found]

    return cases


def cases_of(collected, text):
    """The cases of all tests that a cell names; with (NAME=VALUE) behind a test only those with this parameter."""
    found = []
    for path, test, name, value in TEST.findall(text):
        cases = [params for params in collected(path, test) if not name or params.get(name) == value]
        assert cases, f"no case of {path}::{test} has {name}={value}"
        found += cases
    assert found, f"no test is named in {text!r}"
    return found


def engines_in(cell):
    return list(ENGINES) if cell == "every engine" else cell.split(", ")


def families_in(cell):
    return list(tiny.FAMILIES) if cell == "all" else [family.lower() for family in cell.split(", ")]


@pytest.mark.parametrize("row", MATRIX, ids=lambda row: "-".join(row[:3]).replace(" ", "_"))
def test_every_family_of_a_cell_has_its_case(row, collected):
    engines, _, _, result, tests = row
    cases = cases_of(collected, tests)
    for engine in engines_in(engines) if result != "refused" else ():
        families = {
            case.get("family", "bart") for case in cases if case.get("engine", ENGINES[engine]) == ENGINES[engine]
        }
        assert families >= set(families_in(result)), f"{engine}: {sorted(families)} have a case, said is {result!r}"


@pytest.mark.parametrize("row", OPTIONS, ids=lambda row: row[0].replace(" ", "_"))
def test_every_engine_of_an_option_has_its_case(row, collected):
    _, engines, tests = row
    cases = cases_of(collected, tests)
    found = {case["engine"] for case in cases if "engine" in case} | {
        f"zero{case['stage']}" for case in cases if "stage" in case
    }
    assert not found or found == {ENGINES[engine] for engine in engines_in(engines)}


@pytest.mark.parametrize("row", COSTS, ids=lambda row: row[0].replace(" ", "_"))
def test_every_cost_has_its_case(row, collected):
    assert cases_of(collected, row[1])


def test_the_readme_shows_the_same():
    known = {
        (engine, schedule, with_): result
        for engines, schedule, with_, result, _ in MATRIX
        for engine in engines_in(engines)
        if (engine, schedule) != ("FSDP1", "layer") or with_ == "–"
    }
    shown = {
        (engine, schedule, with_): cell
        for engines, schedules, *cells in table_rows(section(text_of("README.md"), "## What is supported"))
        for engine in engines.split(", ")
        for schedule in schedules.split(", ")
        for with_, cell in zip(COLUMNS, cells, strict=True)
    }
    assert {engine for engine, _, _ in shown} == set(ENGINES)
    for (engine, schedule, with_), cell in shown.items():
        refused = known.get((engine, schedule, "–")) == "refused"
        assert cell == ("refused" if refused else known.get((engine, schedule, with_), "untested")), (engine, with_)
    assert known.keys() <= shown.keys()


def test_the_readme_names_every_family():
    named = re.search(r"encoder-decoder transformers \((.*?)\)", text_of("README.md"))[1]
    assert sorted(name.lower() for name in named.split(", ")) == sorted(tiny.FAMILIES)
