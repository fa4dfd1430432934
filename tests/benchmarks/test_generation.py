"""Generation against Hugging Face's: the same summary, the table, and limits that a slow or large run breaks."""

from __future__ import annotations

import argparse

import pytest
from made_up import broken, rows_of

import generation
from workers import generate

SHAPE = {"vocabulary": 64, "width": 32, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "feed_forward": 64}
SHAPE |= {"window": 16}


def plan(**changes):
    arguments = {"shape": SHAPE, "lengths": [16384], "longest": [262144], "beams": [1, 4], "tokens": 8, "rounds": 2}
    return generation.plan(argparse.Namespace(**arguments | changes))


def test_all_variants_write_the_same():
    trials = plan(lengths=[100], longest=[], beams=[3], rounds=1)
    found = [generate.measure(trial.settings) for trial in trials]
    assert len({each["written"] for each in found}) == 1
    assert all(each["seconds"] > 0 and each["peak_bytes"] >= 0 for each in found)


@pytest.mark.parametrize(
    ("change", "faults"),
    [({}, 0), ({"seconds": 9.0}, 1), ({"peak_bytes": 2**30}, 2), ({"written": "[[3]]"}, 1)],
    ids=["kept", "slow", "large", "other words"],
)
def test_the_table_and_its_limits(change, faults):
    def result(settings):
        if settings["variant"] == "hf":
            return {"seconds": 10.0, "peak_bytes": 3 * 2**30, "written": "[[2]]"}
        ours = {"seconds": 2.0, "peak_bytes": 2**28, "written": "[[2]]"}
        return ours | (change if settings["beams"] == 4 and settings["length"] == 16384 else {})

    rows = rows_of(plan(), result)
    if not change:
        assert '| 16K | 4 | **`cross_cache="kv"`** | 256 | 0.08 | 2.0 | 0.20 | 250 |' in generation.table(rows)
        assert '| 256K | 4 | **`cross_cache="none"`** | 256 | – | 2.0 | – | 250 |' in generation.table(rows)
    assert len(broken(generation.promises(rows))) == faults
