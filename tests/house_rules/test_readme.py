"""The README keeps its word: one page, its Python runs, its figures are the measured ones, its names are there."""

from __future__ import annotations

import re

import pytest
import torch

from helpers.pages import PAGES, text_of
from helpers.repo import ROOT, shown
from lab import workshop

README = text_of("README.md")
MAX_LINES = 150
WRITTEN = {"README.md": README, "CONTRIBUTING.md": text_of("CONTRIBUTING.md")}
WRITTEN |= {shown(path): path.read_text(encoding="utf-8") for path in PAGES}
OUTSIDE = ("http:", "https:", "mailto:")


def test_the_readme_is_one_page():
    assert len(README.splitlines()) <= MAX_LINES


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


def test_the_page_on_python_begins_with_the_same_lines():
    first = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
    assert first.search(text_of("docs/python.md"))[1] == first.search(README)[1]


def test_the_figures_are_the_measured_ones():
    claims = re.findall(r"^- (.*?)\(`make (\w+)`\)$", README, flags=re.MULTILINE | re.DOTALL)
    assert len(claims) == 5
    for claim, target in claims:
        measured = set(re.findall(r"\d[\d.,e-]*\d|\d", text_of(f"docs/measured/{target}.md")))
        missing = set(re.findall(r"\d[\d.,e-]*\d|\d", claim)) - measured
        assert not missing, f"docs/measured/{target}.md has no {sorted(missing)}"


@pytest.mark.parametrize("page", WRITTEN)
def test_files_named_in_commands_exist(page):
    named = set(
        re.findall(r"(?<![\w.~/-])(?:launch|ds_configs|tests|docs|benchmarks|cached_ds)/[\w./]+\w", WRITTEN[page])
    )
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing, missing


@pytest.mark.parametrize("page", WRITTEN)
def test_make_targets_exist(page):
    makefile = text_of("Makefile")
    for target in set(re.findall(r"`make ([\w-]+)|^make ([\w-]+)", WRITTEN[page], flags=re.MULTILINE)):
        assert re.search(rf"^{''.join(target)}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files_and_headings(page):
    """Those of docs/ are checked when the site is built."""
    for target in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        name, _, heading = target.partition("#")
        if not target.startswith(OUTSIDE):
            assert (ROOT / name).is_file(), f"{page} links to {target}"
            assert not heading or heading in headings(name), f"{page} links to {target}"


def headings(name):
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", text_of(name), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().strip().replace(" ", "-") for title in titles}
