"""Older releases than the tested ones are refused, newer ones told once, and a borrowed name that is gone is named."""

from __future__ import annotations

import pytest

from cached_ds import attach
from cached_ds.settings import versions
from cached_ds.settings.versions import TESTED, UnsupportedVersion, check_versions
from helpers import tiny


@pytest.fixture
def installed(monkeypatch):
    """A function that makes other releases of some libraries seem to be installed."""
    real = versions.metadata.version
    check_versions.cache_clear()
    yield lambda **seeming: monkeypatch.setattr(
        versions.metadata, "version", lambda name: seeming.get(name) or real(name)
    )
    check_versions.cache_clear()


def test_the_installed_releases_are_tested(caplog, installed):
    installed()
    check_versions()
    assert not caplog.records


def test_attach_refuses_an_older_release(installed):
    installed(transformers="4.57.6", torch="2.4.1+cu121")
    with pytest.raises(UnsupportedVersion) as refused:
        attach(tiny.make_model("bart"), window=tiny.WINDOW)
    oldest = TESTED["transformers"][0]
    remedy = f"transformers {oldest} or newer, not 4.57.6: pip install --upgrade 'transformers>={oldest}'"
    assert f"cached_ds needs {remedy}" in str(refused.value) and "not 2.4.1+cu121" in str(refused.value)


def test_attach_tells_of_a_newer_release_in_one_line_and_once(caplog, installed):
    installed(transformers="99.0", torch="99.1.0.dev20301231")
    for _ in range(2):
        attach(tiny.make_model("bart"), window=tiny.WINDOW)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "\n" not in record.getMessage()
    assert "transformers 99.0" in record.getMessage() and "torch 99.1.0.dev20301231" in record.getMessage()


@pytest.mark.parametrize("library", TESTED)
def test_both_ends_of_a_range_are_inside(library):
    oldest, newest = TESTED[library]
    for version in (oldest, newest, f"{newest}+cpu"):
        assert versions.refusal(library, version) is None and versions.warning(library, version) is None


def test_a_patch_of_the_newest_release_counts_as_tested():
    newest = TESTED["torch"][1]
    assert versions.warning("torch", newest.rpartition(".")[0] + ".99") is None


def test_a_name_that_is_gone_is_named(monkeypatch, installed):
    installed()
    monkeypatch.setattr(versions, "BORROWED", ("torch._C:_no_such_name",))
    with pytest.raises(UnsupportedVersion, match=r"^torch \S+ has no torch\._C\._no_such_name, which cached_ds needs"):
        check_versions()
