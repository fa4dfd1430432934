"""Mappings read from JSON and YAML, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cached_ds.settings.config_files import read_mapping


def written(folder: Path, *, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", '{"x": {"y": [1, 2]}}'), ("a.yaml", "x:\n  y: [1, 2]\n"), ("a.yml", "x: {y: [1, 2]}")],
)
def test_formats_read_alike(tmp_path, name, text):
    assert read_mapping(written(tmp_path, name=name, text=text)) == {"x": {"y": [1, 2]}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"x": 1,\n "y": }', r"a\.json, line 2: "),
        ("a.json", '{"x": {"y": 1, "y": 2}}', r"a\.json: key 'y' appears 2 times"),
        ("a.json", "[1]", r"a\.json: holds list, not a mapping"),
        ("a.yaml", "x: 1\ny: [1\n", r"a\.yaml, line 3: "),
        ("a.yaml", "x: 1\nx: 2\n", r"a\.yaml, line 2: key 'x' appears twice"),
        ("a.yaml", "", r"a\.yaml: holds NoneType, not a mapping"),
        ("a.json", '{"x": NaN}', r"a\.json: NaN is no number in JSON"),
        ("a.json", '{"x": ' + "[" * 100_000, r"a\.json: nested too deeply"),
        ("a.yaml", "x: " + "[" * 10_000, r"a\.yaml: nested too deeply"),
        ("a.yaml", "y: 1\nx: \x07", r"a\.yaml, line 2: the control character 0x07 is refused"),
        ("a.yaml", "x: 1\n? [a, b]\n: 2\n", r"a\.yaml, line 2: a key must be a name"),
        ("a.yaml", "x: &a [1]\ny: *a\n", r"a\.yaml, line 2: alias \*a: write the value out"),
        ("a.yaml", "x: &a [*a]\n", r"a\.yaml, line 1: alias \*a: write the value out"),
        ("a.toml", "", r"a\.toml: a config file ends in \.json, \.yaml, \.yml, not in '\.toml'"),
    ],
)
def test_refusals_name_file_and_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_mapping(written(tmp_path, name=name, text=text))


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_bytes_that_are_no_text_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=f"{name}: not UTF-8"):
        read_mapping(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.json"):
        read_mapping(tmp_path / "absent.json")
