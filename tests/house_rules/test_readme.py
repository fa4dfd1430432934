"""The README keeps its word: its Python runs, its tables are the measured ones, its commands name what is there."""

from __future__ import annotations

import re

import torch
from helpers.repo import ROOT
from lab import workshop

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_that_users_add_runs(tmp_path):
    folder = workshop.build(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line and not line.startswith(("import", "from"))]) <= 10
    code = code.replace("facebook/bart-base", str(folder / "model")).replace("window=1024", "window=16")
    names = {"documents": [" ".join(workshop.WORDS * 3), "word1"], "summaries": ["word1 word2", "word3"]}
    exec(compile(code, "README.md", "exec"), names)
    before = workshop.BartForConditionalGeneration.from_pretrained(folder / "model").state_dict()
    changed = [name for name, value in names["model"].state_dict().items() if not torch.equal(value, before[name])]
    assert "model.encoder.layers.0.fc1.weight" in changed


def test_the_tables_are_the_measured_ones():
    shown = re.findall(r"<!-- docs/measured/(\w+).md -->\n(.*?)\n<!-- end -->", README, flags=re.DOTALL)
    assert "parity" in dict(shown)
    for name, table in shown:
        assert table.strip() == (ROOT / "docs" / "measured" / f"{name}.md").read_text(encoding="utf-8").strip(), name


def test_files_named_in_commands_exist():
    named = set(re.findall(r"\b(?:launch|ds_configs|tests|docs|benchmarks)/[\w./]+\w", README))
    missing = [path for path in named if not (ROOT / path).exists()]
    assert named and not missing, missing


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?make (\w+)", README)) - {"and", "a"}:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
