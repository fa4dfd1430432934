"""`CachedConfig`: defaults, bounds, unknown names, files."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest

from cached_ds.settings.config import CachedConfig


def test_defaults_are_the_papers():
    assert CachedConfig().to_dict() == {
        "window": 1024,
        "overlap": 0,
        "frame_windows": True,
        "schedule": "window",
        "windows_per_pass": None,
        "recompute": "all",
        "memory_budget": None,
        "sampled_windows": None,
        "compile": False,
        "stream_cross_attention": True,
        "cross_cache": "kv",
        "tile": None,
        "chunked_loss": True,
        "global_first_token": None,
        "offload": "none",
        "offload_folder": None,
        "document_parallel": 1,
        "seed": None,
    }


def test_it_is_frozen_keyword_only_and_described():
    config = CachedConfig(window=64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.window = 32
    with pytest.raises(TypeError):
        CachedConfig(64)
    assert all(field.metadata["help"] and field.metadata["allowed"] for field in dataclasses.fields(config))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", 3),
        ("window", True),
        ("window", 64.0),
        ("window", "64"),
        ("overlap", -1),
        ("overlap", 512),
        ("frame_windows", 1),
        ("schedule", "token"),
        ("windows_per_pass", 0),
        ("tile", 0),
        ("windows_per_pass", "all"),
        ("memory_budget", 0),
        ("memory_budget", "much"),
        ("memory_budget", True),
        ("compile", 1),
        ("stream_cross_attention", "yes"),
        ("cross_cache", "values"),
        ("offload", "nvme"),
        ("offload_folder", "/no/such/folder"),
        ("recompute", "none"),
        ("recompute", "-1"),
        ("recompute", -1),
        ("recompute", False),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", True),
    ],
)
def test_bounds_name_field_value_and_what_is_allowed(field, value):
    with pytest.raises(ValueError, match="allowed is") as caught:
        CachedConfig(**{field: value})
    assert str(caught.value).startswith(f"{field}={value!r} is refused; allowed is ")


@pytest.mark.parametrize(
    "values",
    [{"window": 4}, {"overlap": 511}, {"recompute": 0}, {"seed": 0}, {"seed": 2**63 - 1}, {"windows_per_pass": 10**6}],
)
def test_the_outermost_allowed_values(values):
    assert values.items() <= CachedConfig(**values).to_dict().items()


def test_sizes_are_read_as_people_write_them():
    sizes = [CachedConfig(memory_budget=value).memory_bytes for value in (None, 5, "5", "8GiB", "500MB")]
    assert sizes == [None, 5, 5, 8 * 2**30, 500 * 10**6]


def test_offload_needs_streamed_attention():
    with pytest.raises(ValueError, match="offload='cpu' is refused with stream_cross_attention=False; allowed is True"):
        CachedConfig(offload="cpu", stream_cross_attention=False)


def test_a_number_in_a_string_is_a_number_of_passes():
    assert CachedConfig(recompute="3") == CachedConfig(recompute=3)


@pytest.mark.parametrize("build", [lambda values: CachedConfig(**values), CachedConfig.from_dict])
def test_unknown_names_are_refused_with_the_nearest(build):
    with pytest.raises(ValueError, match="unknown CachedConfig field 'windwo': did you mean 'window'"):
        build({"windwo": 64})


def test_round_trips():
    config = CachedConfig(window=64, overlap=8, frame_windows=False, windows_per_pass=2, recompute=1, seed=7)
    assert CachedConfig.from_dict(config.to_dict()) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == config
    assert dataclasses.replace(config, window=32).window == 32


def test_files_are_read_and_named_in_errors(tmp_path):
    good, bad = tmp_path / "good.json", tmp_path / "bad.yaml"
    good.write_text(json.dumps({"window": 64, "recompute": "3"}), encoding="utf-8")
    assert CachedConfig.from_file(good) == CachedConfig(window=64, recompute=3)
    bad.write_text("overlapp: 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.yaml: unknown CachedConfig field 'overlapp': did you mean 'overlap'"):
        CachedConfig.from_file(bad)
    bad.write_text("window: 2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.yaml: window=2 is refused"):
        CachedConfig.from_file(bad)
