"""Only attach and what it imports are needed; anything else names the extra that is missing, in one sentence."""

from __future__ import annotations

import json
import sys

import pytest

import cached_ds
from cached_ds.evaluation.metrics import SummaryMetrics
from cached_ds.settings.extras import EXTRA_OF, MissingExtra, needed_by
from helpers.repo import ROOT, TRAIN
from lab import installed, workshop
from lab.programs import PROGRAMS


def sentence(user, library, extra):
    return f"{user} needs {library}, which is not installed: pip install 'cached_ds[{extra}]'"


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """What `pip install cached_ds` installs."""
    return installed.site_packages(tmp_path_factory.mktemp("light") / "site-packages")


@pytest.fixture(scope="module")
def without_deepspeed(tmp_path_factory):
    """What `pip install cached_ds[train]` installs."""
    return installed.site_packages(tmp_path_factory.mktemp("train") / "site-packages", "train")


@pytest.fixture(scope="module")
def found(light, folder):
    """What a user of the light install finds."""
    done = installed.run(light, PROGRAMS / "light_user.py", folder)
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout.splitlines()[-1])


def test_the_light_install_is_light(found):
    assert set(found["missing"]) >= EXTRA_OF.keys() - {"pydantic"}, "else the tests below show nothing"


def test_the_light_install_trains_and_generates(found):
    assert found["step"] == [[], 5], "parameters that a step left as they were, and tokens of a summary"


def test_public_names_are_there_after_import(found):
    assert found["doors"] == sorted(set(cached_ds.__all__) - {"zero"})


def test_the_light_install_summarizes(found):
    code, output, _ = found["summarize"]
    assert code == 0 and output.startswith(f"{ROOT / 'setup.py'}: ")


@pytest.mark.parametrize(
    ("name", "user", "library", "extra"),
    [
        ("cached_ds.zero", "cached_ds.zero", "deepspeed", "deepspeed"),
        ("cached_ds.settings.deepspeed_keys", "a DeepSpeed config", "deepspeed", "deepspeed"),
        ("cached_ds.data", "cached_ds.data", "datasets", "train"),
        ("cached_ds.evaluation.metrics", "cached_ds.data", "datasets", "train"),
        ("mpirun", "mpirun without MASTER_ADDR and MASTER_PORT", "mpi4py", "mpi"),
    ],
)
def test_a_missing_extra_is_named(found, name, user, library, extra):
    assert found[name] == sentence(user, library, extra)


@pytest.mark.parametrize(
    ("command", "program", "user", "library", "extra"),
    [
        ("report", "cached-ds", "cached_ds.evaluation.curves", "matplotlib", "plots"),
        ("doctor", "cached-ds", "cached_ds.data", "datasets", "train"),
        ("train", "train.py", "cached_ds.data", "datasets", "train"),
    ],
)
def test_a_command_without_its_extra(found, command, program, user, library, extra):
    assert found[command] == [2, "", f"{program}: error: {sentence(user, library, extra)}\n"]


def test_training_needs_neither_deepspeed_nor_matplotlib(without_deepspeed, folder, tmp_path):
    done = installed.run(without_deepspeed, TRAIN, *workshop.flags(folder, tmp_path / "out", max_steps=1))
    assert done.returncode == 0 and (tmp_path / "out" / "model.safetensors").is_file(), done.stdout
    assert f"curves: not drawn; {sentence('cached_ds.evaluation.curves', 'matplotlib', 'plots')}\n" in done.stdout


def test_deepspeed_is_asked_for_but_not_installed(without_deepspeed, folder, tmp_path):
    words = workshop.flags(folder, tmp_path / "out", deepspeed=ROOT / "ds_configs" / "zero2.json")
    done = installed.run(without_deepspeed, TRAIN, *words)
    expected = f"train.py: error: {sentence('a DeepSpeed config', 'deepspeed', 'deepspeed')}\n"
    assert (done.returncode, done.stdout) == (2, expected)


def test_rouge_is_missed_before_the_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(MissingExtra) as caught:
        SummaryMetrics(tokenizer=None)
    assert str(caught.value) == sentence("ROUGE", "rouge_score", "train")


def test_other_failed_imports_pass_through():
    with pytest.raises(ModuleNotFoundError, match="No module named 'cached_ds.nowhere'"), needed_by("a test"):
        import cached_ds.nowhere  # noqa: F401
