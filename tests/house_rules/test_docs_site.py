"""The documentation site: built as `make docs` builds it, without a warning, and self-contained."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from helpers.repo import ROOT

pytestmark = pytest.mark.timeout(240)
FETCHED = re.compile(r"""(?:<script[^>]*\ssrc|<img[^>]*\ssrc|<link[^>]*\shref)=["']?(https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    # Not --quiet: it hides warnings from --strict too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    return folder


def pages_of(site):
    return {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}


def test_every_page_is_built(site):
    built = {name.removesuffix(".html") for name in pages_of(site)} - {"404"}
    assert built == {path.stem for path in (ROOT / "docs").glob("*.md")}


def test_the_reader_fetches_nothing(site):
    pages = pages_of(site)
    fetching = [name for name, text in pages.items() if FETCHED.search(text)]
    assert pages and not fetching
    styles = [path.name for path in site.rglob("*.css") if re.search(r"url\(['\"]?(https?:)?//", path.read_text())]
    assert not styles


def test_the_public_names_are_in_the_api(site):
    text = pages_of(site)["api.html"]
    for name in (
        "attach",
        "detach",
        "CachedConfig",
        "fsdp.shard",
        "fsdp.wrap_classes",
        "zero.initialize",
        "leaving.leave",
    ):
        assert f'id="cached_ds.{name}"' in text, name
    assert 'id="cached_ds.training.trainer.CachedSeq2SeqTrainer"' in text
