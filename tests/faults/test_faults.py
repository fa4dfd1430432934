"""A run that is killed while it saves ends like an undisturbed one; damage is seen under any engine.

`make faults` kills many more.
"""

from __future__ import annotations

import re
import shutil

import pytest
import torch

import faults
from cached_ds.checkpoints import manifest
from lab import trials, workshop

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("zero_ops")]
KILLS = {
    "zero2": [trials.Kill(stage="half a file", call=3, rank=1)],
    "fsdp": [trials.Kill(stage="before the rename", call=2), trials.Kill(stage="model, but weights")],
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return workshop.build(tmp_path_factory.mktemp("shop"), dropout=0.1)


@pytest.fixture(scope="module", params=KILLS)
def engine(shop, request):
    """An engine under which an undisturbed run has ended."""
    codes, output = trials.run(shop, shop / f"undisturbed-{request.param}", request.param)
    assert codes == [0, 0], output
    return request.param


def test_a_killed_run_goes_on_with_the_same_numbers(shop, engine):
    for number, kill in enumerate(KILLS[engine]):
        assert faults.fault_of(shop, engine, kill, name=f"killed-{engine}-{number}") is None, kill


def test_no_byte_of_a_checkpoint_changes_unnoticed(shop, engine, tmp_path):
    folder = shutil.copytree(shop / f"undisturbed-{engine}" / f"checkpoint-{trials.STEPS}", tmp_path / "copy")
    names = [*manifest.read(folder)["files"], manifest.MANIFEST]
    assert len(names) > 8, names
    for name in names:
        content = (folder / name).read_bytes()
        middle = len(content) // 2
        for damaged in (content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], content[:-1], None):
            (folder / name).unlink() if damaged is None else (folder / name).write_bytes(damaged)
            assert name in manifest.fault(folder)
        (folder / name).write_bytes(content)
    assert manifest.fault(folder) is None


def test_a_restart_before_the_first_checkpoint_does_not_go_on_from_an_earlier_run(shop, tmp_path):
    """The earlier run has ended in the same folder; the new one starts there, dies at once, and is started again."""

    def run(output, **changes):
        return trials.run(shop, tmp_path / output, "single", world=1, **changes)

    run("both", seed=1)
    run("both", kill=trials.Kill(stage="before the folder"))
    codes, output = run("both", resume_from_checkpoint=True)
    assert codes == [0], output
    assert f"skipped checkpoint-{trials.STEPS}: it is of an earlier run in this folder" in output
    _, output = run("alone")
    assert re.search(rf"checkpoint-{trials.STEPS}: 0.\d+ GB in \d+.\d s", output), "what each save costs"
    expected, found = trials.weights(tmp_path / "alone"), trials.weights(tmp_path / "both")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_damaged_checkpoint_is_skipped_and_the_one_before_it_taken(shop, tmp_path):
    changes = {"save_total_limit": 2}
    codes, output = trials.run(shop, tmp_path / "whole", "single", world=1, **changes)
    assert codes == [0], output
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    (tmp_path / "damaged/model.safetensors").unlink()
    (tmp_path / f"damaged/checkpoint-{trials.STEPS}/optimizer.pt").unlink()
    codes, output = trials.run(shop, tmp_path / "damaged", "single", world=1, resume_from_checkpoint=True, **changes)
    assert codes == [0], output
    assert f"skipped checkpoint-{trials.STEPS}: optimizer.pt is missing" in output
    expected, found = trials.weights(tmp_path / "whole"), trials.weights(tmp_path / "damaged")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
