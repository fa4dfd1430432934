"""docs/measured: every table follows from its JSON, and --resume finds every trial of it, so nothing runs again."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from types import SimpleNamespace

import pytest

import balance
import parity
import scaling
from harness import trials
from harness.benchmark import MEASURED

# The flags that plan what is there. speed.json was written by several runs; at 16K cached_ds chose its grouping itself.
SPEED_16K = ["--variants", "full", "checkpointing", "cached", "cached_auto"]
SPEED_16K += ["--cached_fields", '{"windows_per_pass": "auto"}']
SPEED_64K = ["--variants", "truncation", "checkpointing", "published", "cached"]
PLANS = [
    ("memory", []),
    ("speed", ["--lengths", "4096", "--rounds", "2"]),
    ("speed", ["--lengths", "16384", "--rounds", "2", *SPEED_16K]),
    ("speed", ["--lengths", "65536", "--rounds", "1", *SPEED_64K]),
    ("longest", []),
    ("scaling", ["--cores", "0", "1"]),
    ("document", ["--cores", "0", "1", "--rounds", "1"]),
    ("larger", []),
    ("launches", []),
    ("generation", []),
    ("quality", []),
]


def read(name, ending):
    return (MEASURED / f"{name}.{ending}").read_text(encoding="utf-8")


@pytest.fixture
def started(monkeypatch):
    """The settings of the trials whose processes were to start; each of them runs out of memory."""
    found = []

    def run(command, **_):
        found.append(json.loads(command[2]))
        return SimpleNamespace(returncode=-9, stderr="", stdout="")

    monkeypatch.setattr(trials.subprocess, "run", run)
    monkeypatch.setattr(scaling, "discover", lambda: None)
    return found


@pytest.mark.parametrize(("name", "flags"), PLANS)
def test_resume_runs_nothing_but_failed_trials_and_writes_the_same(tmp_path, monkeypatch, started, name, flags):
    shutil.copy(MEASURED / f"{name}.json", tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--resume", "--output_dir", str(tmp_path), *flags])
    importlib.import_module(name).main()
    failed = [row["settings"] for row in json.loads(read(name, "json"))["trials"] if "failed" in row["result"]]
    assert [settings for settings in failed if settings not in started] == []
    assert [settings for settings in started if settings not in failed] == []
    assert bool(failed) == (name in ("larger", "document")), "where some are to run out of memory"
    assert (tmp_path / f"{name}.md").read_text(encoding="utf-8") == read(name, "md")
    if not failed:
        assert (tmp_path / f"{name}.json").read_text(encoding="utf-8") == read(name, "json")


def test_the_tables_of_balance_and_parity_follow_from_their_rows():
    assert balance.table(json.loads(read("balance", "json"))["rows"]) == read("balance", "md")
    errors = json.loads(read("parity", "json"))["worst_relative_error"]
    assert parity.table([{"title": title, "errors": found} for title, found in errors.items()]) == read("parity", "md")


def test_balance_reads_the_fixed_cost_from_the_measured_speed():
    step = balance.step_model(MEASURED / "speed.json")
    assert step.fixed / step.per_token == json.loads(read("balance", "json"))["fixed_tokens"]
