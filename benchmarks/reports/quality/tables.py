"""The tables and promises of quality.py."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from reports.results import Promise, Row, markdown, number
from subjects.learners import EXACT, LEARNERS, PREFIX, PUBLISHED, TRUNCATED

RECALL, NEAR = 95.0, 5.0
UNSCORED = "128"  # the stage that only comes before the others


def rows_of(rows: Sequence[Row], learner: str, data: str) -> list[Row]:
    """The trials of a learner that did not fail, by seed."""
    return [
        row
        for row in rows
        if (row["settings"]["variant"], row["settings"]["data"]) == (learner, data) and "failed" not in row["result"]
    ]


def stages_of(rows: Sequence[Row], data: str) -> list[str]:
    """The names of the stages that are scored, in their order."""
    names = (name for row in rows if row["settings"]["data"] == data for name in row["result"] if name != "failed")
    return [name for name in dict.fromkeys(names) if name != UNSCORED]


def scores(rows: Sequence[Row], learner: str, data: str, stage: str) -> list[float]:
    """The score of every seed on the test documents."""
    return [row["result"][stage]["score"] for row in rows_of(rows, learner, data)]


def seconds(rows: Sequence[Row], learner: str, data: str) -> float | None:
    """Seconds of learning in all stages, median over the seeds."""
    found = [sum(stage["seconds"] for stage in row["result"].values()) for row in rows_of(rows, learner, data)]
    return statistics.median(found) if found else None


def table(rows: list[Row]) -> str:
    """A table for each data set: a line for each learner."""
    return "\n".join(_table(rows, data) for data in dict.fromkeys(row["settings"]["data"] for row in rows))


def _table(rows: list[Row], data: str) -> str:
    stages, lines = stages_of(rows, data), []
    for learner, about in LEARNERS.items():
        if rows_of(rows, learner, data):
            cells = [_with_range(scores(rows, learner, data, stage)) for stage in stages]
            ratio = seconds(rows, learner, data), seconds(rows, EXACT, data)
            time = number(ratio[0] / ratio[1] if ratio[0] and ratio[1] else None, ".2f")
            lines.append([about.title, *cells, time])
    columns = [f"{int(stage):,} words, % of facts" for stage in stages] if data == "keyfacts" else ["ROUGE-1"]
    return markdown([f"`{data}`", *columns, "time / time of cached_ds"], lines)


def _with_range(values: Sequence[float]) -> str:
    spread = f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def promises(rows: list[Row], *, window: int, values: int) -> list[Promise]:
    """What is expected of whole documents, of truncation, and of the updates it takes (issue 15).

    Truncation reports the facts that its window holds, and guesses the others among so many values.
    """
    found = []
    for stage in stages_of(rows, "keyfacts"):
        whole, cut = (scores(rows, learner, "keyfacts", stage) for learner in (EXACT, TRUNCATED))
        recall = statistics.mean(whole) if whole else None
        found.append(Promise(f"{stage} words: facts reported from whole documents, %", recall, RECALL, at_least=True))
        share = 100 * window / int(stage)
        share += (100 - share) / values
        away = abs(statistics.mean(cut) - share) if cut else None
        found.append(
            Promise(f"{stage} words: truncation, points from the {share:.1f}% it reads or guesses", away, NEAR)
        )
    return found + [_faster(rows, other) for other in (PUBLISHED, PREFIX)]


def _faster(rows: list[Row], other: str) -> Promise:
    """Mean score over the learning curves: whoever learns in fewer updates has the larger one."""
    ours, theirs = (_mean_score(rows, learner) for learner in (EXACT, other))
    ratio = ours / theirs if ours is not None and theirs else None
    what = f"mean score while learning, cached_ds / {LEARNERS[other].title}"
    return Promise(what, ratio, 1.0, at_least=True)


def _mean_score(rows: list[Row], learner: str) -> float | None:
    points = [
        score
        for row in rows_of(rows, learner, "keyfacts")
        for stage in row["result"].values()
        for _, _, score in stage["curve"]
    ]
    return statistics.mean(points) if points else None
