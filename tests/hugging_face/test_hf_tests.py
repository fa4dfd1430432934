"""`make hf-tests` on made-up outcomes: what is a named difference, what is a failure, and the table that is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import hf_tests
import pytest
from differences import KINDS, kind_of

from helpers.pages import text_of

OF_BART, OF_T5 = (f"tests/models/{family}/test_modeling_{family}.py::Test" for family in ("bart", "t5"))
EMBEDS = "E   ValueError: a windowed encoder takes input_ids [B, L] and no inputs_embeds"
WRONG = "E   AssertionError: Tensor-likes are not close!"


def outcomes(*failed):
    """Four tests, of which some fail with a traceback."""
    tests = [f"{OF_BART}::a", f"{OF_BART}::b", f"{OF_BART}::c", f"{OF_T5}::a"]
    found = {test: {"test": test, "outcome": "passed"} for test in tests}
    for name, trace in failed:
        found[f"{OF_BART}::{name}"] |= {"outcome": "failed", "trace": trace}
    return list(found.values())


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs `hf_tests.py` on a made-up checkout; returns its exit code and what was asked of pytest."""

    def run(plain, attached):
        asked = []
        results = iter([plain, attached, outcomes()])
        monkeypatch.setattr(hf_tests, "run", lambda _, tests, attach: asked.append((tests, attach)) or next(results))
        package = tmp_path / "checkout" / "src" / "transformers"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text('__version__ = "5.0.0"\n', encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["hf_tests.py", str(tmp_path / "checkout"), "--output_dir", str(tmp_path)])
        return hf_tests.main(), asked

    return run


def test_a_named_difference_is_counted(tmp_path, command):
    code, asked = command(outcomes(("c", WRONG)), outcomes(("b", EMBEDS)))
    assert code == 0
    passing = [f"{OF_BART}::a", f"{OF_BART}::b", f"{OF_T5}::a"]
    assert [tests for tests, _ in asked[1:]] == [passing, passing], "what fails on plain models is not run again"
    assert [attach for _, attach in asked] == list(hf_tests.SETTINGS.values())
    table = (tmp_path / "hf_tests.md").read_text(encoding="utf-8")
    assert "| pass | 3 | 3 | 4 |" in table and "| `inputs_embeds` is refused | – | 1 | 0 |" in table
    assert hf_tests.table(json.loads((tmp_path / "hf_tests.json").read_text(encoding="utf-8"))) == table


def test_any_other_failure_is_printed_and_ends_with_1(command, capsys):
    code, _ = command(outcomes(), outcomes(("a", WRONG), ("b", EMBEDS)))
    said = capsys.readouterr().out
    assert code == 1 and f"{OF_BART}::a (attached):\n{WRONG}" in said and f"{OF_BART}::b" not in said
    assert "FAIL  tests that fail for a reason that no page names: 1" in said


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_a_difference_is_named_by_its_page(kind):
    assert kind.words in text_of(kind.page)


def test_a_wrong_number_is_no_difference_of_a_kind():
    assert kind_of(WRONG) is None
    assert kind_of("in test_hidden_states_output\nE   AssertionError: 3 != 4") is None


def test_the_measured_table_follows_from_its_rows_and_nothing_failed():
    folder = Path(hf_tests.ROOT, "docs", "measured")
    results = json.loads((folder / "hf_tests.json").read_text(encoding="utf-8"))
    assert hf_tests.table(results) == (folder / "hf_tests.md").read_text(encoding="utf-8")
    assert all(row["kind"] for row in results["failures"])
