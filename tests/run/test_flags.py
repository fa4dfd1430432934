"""Recipes and flags: brought into one form, with DeepSpeed's two spellings and its launcher's extra word."""

from __future__ import annotations

from argparse import ArgumentParser

import pytest

from cached_ds.run.flags import normalise, value_of

PARSER = ArgumentParser()
PARSER.add_argument("--save_strategy", choices=["no", "steps"])
PARSER.add_argument("--label_names", nargs="+")
for flag in ("--deepspeed", "--max_steps", "--extra"):
    PARSER.add_argument(flag)
KNOWN = PARSER._option_string_actions


@pytest.mark.parametrize(
    "argv",
    [
        ["--deepspeed", "ds.json", "--max_steps", "3"],
        ["--deepspeed", "--deepspeed_config", "ds.json", "--max_steps", "3"],
        ["--deepspeed_config", "ds.json", "--max_steps", "3", "--deepspeed"],
        ["--local_rank=1", "--deepspeed", "ds.json", "--max_steps", "3"],
    ],
)
def test_every_spelling_of_the_deepspeed_flag(argv):
    flags = normalise(argv, KNOWN)
    assert value_of(flags, "--deepspeed") == "ds.json"
    assert value_of(flags, "--max_steps") == "3"
    assert len(flags) == 4


def test_a_recipe_becomes_flags_and_later_flags_win(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("max_steps: 3\nsave_strategy: no\nlabel_names: [a, b]\nextra: {x: 1}\ndeepspeed: null\n")
    flags = normalise(["--local_rank=0", str(recipe), "--max_steps=7"], KNOWN)
    expected = ["--max_steps", "3", "--save_strategy", "no", "--label_names", "a", "b", "--extra", '{"x": 1}']
    assert flags == [*expected, "--max_steps=7"]
    assert value_of(flags, "--max_steps") == "7"


@pytest.mark.parametrize(("text", "message"), [("max_steps: [3]", "a list"), ('extra: "\\0"', "no command line")])
def test_what_no_flag_can_hold_is_refused(text, message, tmp_path):
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=f"r.yaml, line 1: .*{message}"):
        normalise([str(tmp_path / "r.yaml")], KNOWN)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises((ValueError, OSError), match="gone.yaml"):
        normalise([str(tmp_path / "gone.yaml")], KNOWN)


def test_an_absent_flag_has_no_value():
    assert value_of(["--max_steps", "3"], "--deepspeed") is None
