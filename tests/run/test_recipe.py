"""Recipe: what is refused is named with the line of the recipe that holds it."""

from __future__ import annotations

import pytest

from cached_ds.run.arguments import parse, read_flags
from cached_ds.run.recipe import located


@pytest.mark.parametrize("name", ["r.yaml", "r.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n\t"window": 64,\n\t"learning_rate": -1\n}', "line 3: --learning_rate -1.0 is refused"),
        ('{"seed": 3,\n "overlap": -2}', "line 2: overlap=-2 is refused"),
        ('{"seed": 3,\n\n "max_steps": "many"}', "line 3: argument --max_steps/--max-steps: invalid int value"),
        ('{"seed": 3,\n "max_step": 3}', "line 2: unknown key"),
        ('{"seed": 3,\n "max_steps": [1, 2]}', "line 2: max_steps: a list is refused"),
    ],
)
def test_a_refused_value_is_named_with_its_line(tmp_path, name, content, message):
    recipe = tmp_path / name
    recipe.write_text(content.replace("\t", "  ") if name == "r.yaml" else content, encoding="utf-8")
    documents = tmp_path / "documents.jsonl"
    documents.touch()
    argv = [str(recipe), "--model_name_or_path", "m", "--train_file", str(documents), "--output_dir", "o"]
    with pytest.raises(ValueError) as caught:
        parse(argv)
    assert located(str(caught.value), argv).startswith(f"{recipe}, {message}")


def test_what_the_command_line_gave_is_not_the_recipes(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("window: 64\nlearning_rate: 1\n", encoding="utf-8")
    message = "--learning_rate -1 is refused; allowed is a number >= 0"
    assert located(message, [str(recipe)]) == f"{recipe}, line 2: {message}"
    assert located(message, [str(recipe), "--learning-rate=-1"]) == message
    assert located(message, ["--learning_rate", "-1"]) == message
    unknown = "unknown flag '--windw': did you mean '--window'?"
    assert located(unknown, [str(recipe), "--windw", "3"]) == unknown
    assert located("train.jsonl, line 3: no text", [str(recipe)]) == "train.jsonl, line 3: no text"


def test_no_line_is_better_than_a_traceback(tmp_path):
    recipe = tmp_path / "r.json"
    recipe.write_text('{"max_step": ' + "[" * 900 + "]" * 900 + "}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"r\.json: unknown key 'max_step'"):
        read_flags([str(recipe)])
