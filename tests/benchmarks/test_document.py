"""One document on several ranks: one trial for real, tables and promises on rows that are made up, and on paper."""

from __future__ import annotations

import argparse
import json
import os
import sys

import pytest
from made_up import TINY, broken, rows_of

import document
from harness.machine import Machine
from harness.runners import LocalRunner
from harness.trials import Trial
from probes import flops
from reports.document import paper, plots, tables
from reports.document.results import Documents
from subjects.trainers import ALONE

SHAPE = TINY | {"target": 4}
WINDOWS = 40


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_two_ranks_hold_half_and_send_the_same_for_any_length():
    machine = Machine(cores=tuple(os.sched_getaffinity(0)))
    arguments, length = flags(shape=SHAPE), (SHAPE["window"] - 2) * WINDOWS + 2
    own = {"length": length, "counted": [30, length]}
    trials = [Trial(document._settings(arguments, ranks) | own, 0, document.SCRIPT) for ranks in (1, 2)]
    (one,), two = (LocalRunner().run(trial, machine)["ranks"] for trial in trials)
    whole = length * SHAPE["width"] * 4
    assert one["states"] == one["gradient"] == whole
    for name in ("states", "gradient"):
        assert sum(rank[name] for rank in two) == whole
        assert max(rank[name] for rank in two) <= tables.HALF * whole / 2
    for rank in two:
        short, long = rank["counted"]
        assert short["collectives"] == long["collectives"]
        assert long["collectives"]["all-gather"]["count"] == 1 + 2, "of generators, and of each layer"
        assert len(rank["seconds"]) == 1 and rank["peak_bytes"] > 0
    assert not one["counted"][1]["collectives"]


def flags(**values):
    defaults = {"ranks": [1, 2], "lengths": [131072], "rounds": 2, "shape": {}, "cached_fields": {}}
    return argparse.Namespace(**defaults | {"room": 64, "ladder": [3, 4, 5]} | values)


def result_of(settings, *, slow=1.0, more=0, held=2, room=5):
    """A made-up result: two ranks are as fast as independent ones but for `slow`, hold a `held`th, and have `room`."""
    if settings["room"] and settings["length"] > room * 8192:
        return {"failed": "rank 0: out of memory"}
    shared = settings["variant"] != ALONE and settings["ranks"] > 1
    seconds = settings["length"] / 1000 / (settings["ranks"] if shared else 1) * (slow if shared else 1)
    size = settings["length"] * 8 // (held if shared else 1)
    rank = {
        "seconds": [seconds],
        "cpu_seconds": [0.9 * seconds],
        "states": size,
        "gradient": size,
        "peak_bytes": 3 * size,
        "counted": [],
    }
    for length in settings["counted"]:
        count = 7 + more * (length > 200_000)
        found = {"all-gather": {"count": 3, "bytes": 400}, "all-reduce": {"count": count, "bytes": 1000}}
        rank["counted"].append({"collectives": found})
    return {"ranks": [rank] * settings["ranks"], "seconds": seconds}


def rows(**changes):
    return rows_of(document.plan(flags()), lambda settings: result_of(settings, **changes))


def failing(found):
    return broken(tables.promises(found))


def test_the_plan_counts_then_times_round_by_round_then_climbs():
    plan = [trial.settings for trial in document.plan(flags())]
    assert (plan[0]["counted"], plan[0]["fields"]) == (list(document.SIZES), {"document_parallel": 2})
    of_a_round = [(ALONE, 1, 1, {}), (ALONE, 2, 2, {}), ("ddp", 2, 1, {"document_parallel": 2})]
    timed = [each for each in plan if each["probe"] == "time"]
    assert [(each["variant"], each["ranks"], each["documents"], each["fields"]) for each in timed] == of_a_round * 2
    climbed = [(each["ranks"], each["length"] // 8192, each["room"]) for each in plan if each["probe"] == "longest"]
    assert climbed == [(1, 3, 64), (1, 4, 64), (1, 5, 64), (2, 6, 64), (2, 8, 64), (2, 10, 64)]


def test_the_tables_and_the_plot_say_what_was_measured(tmp_path):
    found = rows(slow=1.25, room=8)
    text = tables.table(found)
    assert "| 128K | 1 | one process | 131.1 (131.1–131.1) | – | – | 118.0 | 2.0 | – | 3 |" in text
    assert (
        "| 128K | 2 | independent processes, a document each | 131.1 (131.1–131.1) | 2.00 | – | 118.0 | 2.0 | – | 3 |"
        in text
    )
    assert "| 128K | 2 | **one document, shared** | 81.9 (81.9–81.9) | 1.60 | 0.800 | 147.5 | 1.0 | 0.500 | 2 |" in text
    assert "| 256K | 2 | 10: 3 all-gather, 7 all-reduce | 1,200 |" in text
    assert "| 64 | 1 | 40K | – |" in text and "| 64 | 2 | 64K | 80K |" in text
    assert text.endswith(paper.table())
    plots.draw(found, tmp_path / "document.png")
    assert (tmp_path / "document.png").stat().st_size > 10_000


def test_each_promise_can_be_broken():
    good = rows(room=10)
    assert not failing(good) and all(promise.value is not None for promise in tables.promises(good))
    assert failing(rows(room=10, slow=1.1)) == ["128K tokens, 2 ranks: speed-up / that of independent processes"]
    assert failing(rows(room=10, more=1)) == ["kinds of collectives that differ by the document's length"]
    assert failing(rows(room=10, held=1)) == ["128K tokens, 2 ranks: H and G per rank x 2 / of one process"]
    assert failing(rows(room=8)) == ["2 ranks: the longest document / that of one process"]
    good[1] = good[1] | {"result": {"failed": "rank 0: more than 3600 s"}}
    assert failing(good) == ["trials that failed, but for a lack of room"]


def test_a_document_that_had_no_room_is_no_failure_and_none_is_told():
    results = Documents(rows(room=4))
    assert results.failed == 0
    assert results.longest() == {1: (4 * 8192, 5 * 8192), 2: (0, 6 * 8192)}


def test_on_paper_the_longest_document_fills_the_memory_and_time_is_that_of_the_flops():
    assert paper.parameters() == pytest.approx(406e6, rel=0.01)  # facebook/bart-large
    one, eight = paper.longest(1), paper.longest(8)
    own = paper.PER_UNIT * paper.SHAPE.width
    assert one * (own + paper.PER_TOKEN) == pytest.approx(eight * (own / 8 + paper.PER_TOKEN))
    assert 6 < eight / one < 8, "ids and masks are whole on each"
    needed = flops.step(paper.SHAPE, paper.BOOK, "full")
    assert paper.seconds(paper.BOOK, 1) == pytest.approx(needed / (0.25 * 989e12))
    assert paper.seconds(paper.BOOK, 8) > paper.seconds(paper.BOOK, 1) / 8
    assert paper.sending(1) == 0 < paper.sending(8) < paper.sending(64)


def test_the_benchmark_from_flags_to_files(tmp_path, monkeypatch, capsys):
    rooms = []

    def run(self, trial, machine):  # noqa: ARG001
        rooms.append(trial.settings["room"])
        return result_of(trial.settings, room=60)

    monkeypatch.setattr(LocalRunner, "run", run)
    command = ["document.py", "--cores", "0", "1", "--output_dir", str(tmp_path), "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", command)
    assert document.main() == 0
    assert capsys.readouterr().out.count("PASS") == 5
    assert rooms == [None] * (1 + 6) + [document.ROOM] * 8
    assert {path.name for path in tmp_path.iterdir()} == {"document.md", "document.json", "document.png"}
    assert len(json.loads((tmp_path / "document.json").read_text(encoding="utf-8"))["trials"]) == len(rooms)


def test_one_core_shares_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["document.py", "--cores", "0"])
    with pytest.raises(SystemExit):
        document.parse()
    assert "no document is shared by fewer than 2 ranks" in capsys.readouterr().err
