"""Facts of a run: its command line, config files and code, read so that any difference shows."""

from __future__ import annotations

from cached_ds.provenance.facts import WHOLE, digest, facts
from cached_ds.ranks.agreement import difference


def test_the_command_line_and_its_files_are_facts(tmp_path):
    recipe, config = tmp_path / "recipe.yaml", tmp_path / "ds.json"
    recipe.write_text(f"window: 64\nlearning_rate: 0.1\noutput_dir: a\ndeepspeed: {config}\n")
    config.write_text('{"zero_optimization": {"stage": 2}}')
    argv = [str(recipe), "--learning-rate", "0.2", "--local_rank=3", "--do_train", "--window=16"]
    environ = {"ACCELERATE_MIXED_PRECISION": "no", "HOME": "/x"}
    found = facts(argv, environ)
    assert found["--learning_rate"] == "0.2" and found["--window"] == "16" and found["--do_train"] == ""
    assert found[f"{config}: zero_optimization.stage"] == "2" and found["ACCELERATE_MIXED_PRECISION"] == "no"
    assert not found.keys() & {"--output_dir", "--local_rank", "HOME"}
    assert {"the source code of cached_ds", "the version of python", "the version of deepspeed"} <= found.keys()


def test_a_file_that_cannot_be_read_differs_from_one_that_can(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    missing = facts([str(recipe)], {})
    recipe.write_text("window: 64")
    message = difference([missing, facts([str(recipe)], {})], ["a", "b"])
    assert "No such file" in message and "rank 0 (host a)" in message and "rank 1 (host b)" in message


def test_changed_code_is_a_difference(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("one")
    before = facts([], {}, script=script)
    script.write_text("two")
    message = difference([before, before, facts([], {}, script=script)], ["a", "b", "c"])
    assert message.startswith("the ranks differ: the source code of train.py is ")
    assert "rank 0 (host a), rank 1 (host b)" in message and message.endswith("on rank 2 (host c)")


def test_large_files_are_told_apart_by_samples(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(WHOLE + 1))
    before = digest(path)
    with path.open("r+b") as file:
        file.seek(WHOLE)
        file.write(b"x")
    assert digest(path) != before
