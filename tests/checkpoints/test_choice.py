"""From which checkpoint a run goes on: the newest whole one, after a restart or if asked."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cached_ds.checkpoints import choice, manifest
from cached_ds.checkpoints.choice import choose_checkpoint


@pytest.fixture
def training(tmp_path):
    return SimpleNamespace(output_dir=tmp_path)


def checkpoint(folder, step, *, files=("trainer_state.json", "rng_state.pth"), whole=True, **facts):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    for name in files:
        (path / name).write_text("{}")
    sizes = manifest.sizes(path)
    if whole:
        manifest.write(path, {"step": step, **facts}, sizes=sizes, digests=manifest.digests(path, sizes))
    return path


def test_only_a_restart_goes_on_by_itself(training, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert choose_checkpoint(training, None) is None, "nothing to go on from"
    checkpoint(tmp_path, 9)
    newest = checkpoint(tmp_path, 10)
    assert choose_checkpoint(training, None) == str(newest)
    assert choose_checkpoint(training, "false") == str(newest)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert choose_checkpoint(training, None) is None, "a first start"
    assert choose_checkpoint(training, "false") is None


@pytest.mark.parametrize("asked", [True, "true", "True"])
def test_asked_it_takes_the_newest_whole_one_and_says_why_not_the_others(training, tmp_path, caplog, asked):
    """Transformers takes the largest number, whatever is in its folder."""
    assert choose_checkpoint(training, asked) is None
    assert "can be taken: the run starts anew" in caplog.text
    checkpoint(tmp_path, 12, whole=False)
    (tmp_path / "checkpoint-best").mkdir()
    assert choose_checkpoint(training, asked) is None
    caplog.clear()
    checkpoint(tmp_path, 9)
    (checkpoint(tmp_path, 10) / "rng_state.pth").unlink()
    checkpoint(tmp_path, 11, files=["trainer_state.json"])
    assert choose_checkpoint(training, asked) == str(tmp_path / "checkpoint-9")
    assert "skipped checkpoint-12: holds no manifest.json" in caplog.text
    assert "skipped checkpoint-11: it holds the model only (--save_only_model)" in caplog.text
    assert "skipped checkpoint-10: rng_state.pth is missing" in caplog.text


def test_of_several_runs_in_a_folder_only_the_recorded_one_counts(training, tmp_path, caplog):
    """A first start does not clear the folder, and the earlier run's steps may have larger numbers."""
    mine = checkpoint(tmp_path, 10, run="new")
    earlier = checkpoint(tmp_path, 900, run="earlier")
    assert choose_checkpoint(training, True, run="new") == str(mine)
    assert "skipped checkpoint-900: it is of an earlier run in this folder; to go on from it, name it" in caplog.text
    assert choose_checkpoint(training, True, run="newest") is None
    assert choose_checkpoint(training, True) == choose_checkpoint(training, str(earlier), run="new") == str(earlier)
    assert choose_checkpoint(training, True, run="earlier") == str(earlier)
    unnamed = checkpoint(tmp_path, 901)
    assert choose_checkpoint(training, True, run="new") == str(unnamed), "written before runs had names"
    (unnamed / manifest.MANIFEST).write_text("{")
    assert choose_checkpoint(training, True, run="new") == str(mine)


def test_a_folder_that_is_asked_for_has_to_be_whole(training, tmp_path):
    with pytest.raises(ValueError, match="--resume_from_checkpoint nowhere: there is no such folder"):
        choose_checkpoint(training, "nowhere")
    folder = checkpoint(tmp_path, 9)
    found = choose_checkpoint(training, str(folder))
    assert found == str(folder)
    (folder / "trainer_state.json").write_text("{ }")
    with pytest.raises(ValueError, match=r"not a whole checkpoint, trainer_state.json has 3 bytes instead of 2"):
        choose_checkpoint(training, str(folder))
    assert choice.checked(found) is found, "it is read once per start"
