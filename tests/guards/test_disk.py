"""An output folder that cannot be written to is refused before any work; a disk that fills up later ends all ranks."""

from __future__ import annotations

import subprocess

import pytest

from cached_ds.guards.disk import PROBE_BYTES, check_writable, disk_faults, fault_of
from cached_ds.guards.faults import TrainingFault
from helpers.repo import TRAIN
from lab import commands, workshop
from lab.workshop import flags

MOUNTS = ["unshare", "--mount", "--map-root-user", "sh", "-c"]


@pytest.fixture(scope="module")
def mounts():
    """Skips where this user may not mount anything."""
    if subprocess.run([*MOUNTS, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode:
        pytest.skip("mounts are not allowed here")


def on_disk(folder, command, *, size):
    """The output of a command while `folder` is a disk of so many bytes; then its exit code and what is on the disk."""
    script = f'mount -t tmpfs -o size={size} none {folder}; "$@" 2>&1; echo "code $?"; cd {folder}; find . | sort'
    return commands.run([*MOUNTS, script, "sh", *command]).stdout


def test_a_folder_is_probed_without_a_trace(tmp_path):
    check_writable(tmp_path / "not/there/yet")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--output_dir .*file/out: nothing can be written there .*Not a directory"):
        check_writable(tmp_path / "file/out")


@pytest.mark.usefixtures("mounts")
def test_a_full_disk_is_refused_before_any_work(folder, tmp_path):
    words = flags(folder, tmp_path / "out")
    found = on_disk(tmp_path, ["python", TRAIN, *words], size=PROBE_BYTES // 2)
    *_, sentence, code, rest = found.splitlines()
    assert "out: nothing can be written there (No space left on device); free some space, or name" in sentence, found
    assert code == "code 2" and rest == ".", found


@pytest.mark.timeout(200)
@pytest.mark.usefixtures("mounts")
def test_a_disk_that_fills_up_ends_all_ranks_and_leaves_the_last_checkpoint(tmp_path):
    (disk := tmp_path / "disk").mkdir()
    folder = workshop.build(tmp_path)
    words = flags(folder, disk / "out", save_strategy="steps", save_steps=1, max_steps=30)
    found = on_disk(disk, [*commands.launcher("torchrun"), TRAIN, *words], size="4m")
    assert "code 1" in found, found
    assert "out any more (No space left on device); free some space, and go on from the last checkpoint" in found, found
    assert "/checkpoint-1/manifest.json" in found, found


def test_other_errors_pass(tmp_path):
    with pytest.raises(RuntimeError, match="^planned$"), disk_faults(tmp_path, said=lambda: "step 1"):
        raise RuntimeError("planned")
    with pytest.raises(TrainingFault, match="^planned$"), disk_faults(tmp_path / "x", said=lambda: "step 1"):
        raise TrainingFault("planned")
    assert fault_of(tmp_path) is None
