"""Quality: every learner learns what its name says, and limits that a poor learner breaks."""

from __future__ import annotations

import argparse

import pytest
import torch
from made_up import TINY, broken, rows_of

import quality
from helpers.compare import EXACT, gradients, worst_error
from peers import full, partial, published
from reports.quality import plots, tables
from subjects.learners import LEARNERS
from subjects.shape import Shape, make_batch, make_model
from workers import learn

SHAPE = Shape(**TINY)
WINDOW = 16
STAGES = [
    {"name": words, "config": f"length={words},num_facts=2,num_values=2,num_fillers=3,num_train=4", "updates": 2,
     "batch": 2, "every": 1, "documents": 3}
    for words in (20, 40)
]  # fmt: skip


def gradients_of(step, length=61, **options):
    model = make_model(SHAPE, length=length).double()
    step(model, make_batch(SHAPE, length=length), window=SHAPE.window, **options)
    return gradients(model)


def test_parts_of_a_document_teach_what_they_say():
    whole = gradients_of(full.step)
    first = {name: whole[name] for name in whole if ".decoder.layers" in name}
    frozen = gradients_of(partial.frozen_windows)
    assert worst_error({name: frozen[name] for name in first}, first) < EXACT
    assert all(not frozen[name].any() for name in frozen if ".encoder.layers" in name)
    assert worst_error(gradients_of(partial.prefix, length=SHAPE.window), gradients_of(full.step, SHAPE.window)) < EXACT
    assert worst_error(gradients_of(partial.prefix), whole) > 0.1
    drawn = [gradients_of(partial.random_window) for _ in range(20)]
    assert len({torch.cat([each.flatten() for each in found.values()]).sum().item() for found in drawn}) > 1


def test_the_published_step_has_its_defects_only_if_asked():
    whole = gradients_of(full.step)
    assert worst_error(gradients_of(published.step), whole) < EXACT
    found = gradients_of(published.step, defects=True)
    assert worst_error(found, whole) > 0.05
    decoder = {name: whole[name] for name in whole if ".decoder.layers" in name}
    assert worst_error({name: found[name] for name in decoder}, decoder) < EXACT


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_learner_learns_and_writes(learner):
    settings = {"variant": learner, "data": "keyfacts", "window": WINDOW, "target": 4, "seed": 1, "dropout": 0.1}
    found = learn.measure(settings | {"stages": STAGES})
    assert list(found) == ["20", "40"]
    for stage in found.values():
        assert [updates for updates, _, _ in stage["curve"]] == [1, 2]
        assert 0 < stage["curve"][0][1] < stage["curve"][1][1] <= stage["seconds"]
        assert 0 <= stage["score"] <= 100


def made_up_rows(scores):
    """Rows of which every learner's scores are those given, or 10; `pysource` has one stage."""
    arguments = argparse.Namespace(seeds=2, data=list(quality.STAGES), learners=list(LEARNERS))

    def result(settings):
        score = scores.get(settings["variant"], 10.0)
        names = [str(stage["name"]) for stage in settings["stages"]]
        share = {name: score if callable(score) is False else score(name) for name in names}
        return {name: {"curve": [(5, 1.0, share[name] / 2), (10, 2.0, share[name])], "score": share[name],
                       "seconds": 2.0} for name in names}  # fmt: skip

    return rows_of(quality.plan(arguments), result)


def held(name):
    """What a truncated document holds, in percent."""
    if not name.isdigit():
        return 50.0
    share = 100 * quality.WINDOW / int(name)
    return share + (100 - share) / quality.VALUES + 1


@pytest.mark.parametrize(
    ("change", "faults"),
    [({}, 0), ({"exact": 90.0}, 3), ({"truncation": 60.0}, 3), ({"published": 99.0}, 1), ({"prefix": 99.0}, 1)],
    ids=["kept", "forgets", "guesses", "published learns faster", "prefix learns faster"],
)
def test_the_table_and_its_limits(change, faults, tmp_path):
    rows = made_up_rows({"exact": 98.0, "truncation": held} | change)
    assert len(broken(tables.promises(rows, window=quality.WINDOW, values=quality.VALUES))) == faults
    if not change:
        table = tables.table(rows)
        assert "| **cached_ds**, whole documents | 98.0 (98.0–98.0) | 98.0 (98.0–98.0) |" in table
        assert "ROUGE-1" in table and "128 words" not in table
        plots.draw(rows, tmp_path / "quality.png")
        assert (tmp_path / "quality.png").stat().st_size > 10_000
