"""A checkpoint appears whole or not at all, on one disk or on several."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate import PartialState

from cached_ds.checkpoints import commit, manifest, staging


def write(folder, content="new", name="file"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)


def test_it_appears_at_the_end_and_nothing_else_stays(tmp_path):
    final = tmp_path / "checkpoint-1"
    with commit.committing(final, facts={"step": 1}) as written:
        write(written)
        assert not final.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert manifest.fault(final) is None and manifest.read(final)["step"] == 1


def test_where_writing_fails_the_old_one_stays(tmp_path):
    final = tmp_path / "checkpoint-1"
    write(final, "old")
    with pytest.raises(OSError, match="full"), commit.committing(final, facts={}) as written:
        write(written, "half")
        raise OSError("the disk is full")
    assert (final / "file").read_text() == "old" and manifest.fault(final) is not None
    with commit.committing(final, facts={}) as written:
        assert not written.exists(), "what the failed attempt left is gone"
        write(written)
    assert (final / "file").read_text() == "new" and [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_all_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    """Files and their folders, the manifest, then the rename, then the folder that knows the name."""
    final, seen = tmp_path / "checkpoint-1", []
    sync, rename = staging.sync_entry, Path.rename
    monkeypatch.setattr(staging, "sync_entry", lambda path: (seen.append(path.name), sync(path)))
    monkeypatch.setattr(manifest, "write", lambda *_, **__: seen.append("manifest"))
    monkeypatch.setattr(Path, "rename", lambda self, target: (seen.append("rename"), rename(self, target)))
    with commit.committing(final, facts={}) as written:
        write(written)
        write(written / "below", name="other")
    *files, written_last, folder, renamed, parent = seen
    assert set(files) == {"checkpoint-1", "file", "below", "other"}
    assert (written_last, folder, renamed, parent) == ("manifest", "checkpoint-1", "rename", tmp_path.name)


def test_a_checkpoint_is_removed_at_once(tmp_path, monkeypatch):
    write(tmp_path / "checkpoint-1")
    seen = []
    rmtree = commit.shutil.rmtree
    monkeypatch.setattr(
        commit.shutil, "rmtree", lambda path, **_: (seen.append((tmp_path / "checkpoint-1").exists()), rmtree(path))
        if Path(path).exists() else None,
    )  # fmt: skip
    commit.remove(tmp_path / "checkpoint-1")
    assert seen == [False] and not list(tmp_path.iterdir())


def commit_together(*, folders):
    """On a rank: write one file of its own into the checkpoint of its disk; returns the leader's names of files."""
    state = PartialState(cpu=True)
    folder = Path(folders[state.process_index], "checkpoint-1")
    with commit.committing(folder, facts={"step": 1}) as written:
        write(written, "x" * (state.process_index + 1), name=f"of-rank-{state.process_index}")
    return (
        sorted(manifest.read(folder)["files"]),
        manifest.fault(folder),
        staging.sharers_of(folder / manifest.MANIFEST),
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("disks", [1, 2])
def test_ranks_that_share_a_disk_write_one_manifest_and_others_one_each(ranks, tmp_path, disks):
    folders = [str(tmp_path / f"disk{rank % disks}") for rank in range(2)]
    found = ranks.run(commit_on_nodes, folders=folders, disks=disks)
    if disks == 1:
        assert found == [(["of-rank-0", "of-rank-1"], None, [0, 1])] * 2
    else:
        assert found == [(["of-rank-0"], None, [0]), (["of-rank-1"], None, [1])]
    assert all([path.name for path in Path(folder).iterdir()] == ["checkpoint-1"] for folder in folders)


def commit_on_nodes(*, folders, disks):
    """Each rank is the first of its node where there are two disks."""
    state = PartialState(cpu=True)
    with pytest.MonkeyPatch.context() as patch:
        if disks == 2:
            patch.setattr(PartialState, "is_local_main_process", True)
            assert state.is_local_main_process
        return commit_together(folders=folders)
