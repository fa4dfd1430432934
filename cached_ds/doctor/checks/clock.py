"""Clock: how far each rank's clock is from that of rank 0, by the quickest of several exchanges."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
import torch.distributed as dist

from cached_ds.doctor.checks.check import Check, Facts, Finding, Reports, span
from cached_ds.doctor.checks.context import Limits, RankContext

QUESTIONS = 8


def clock(context: RankContext) -> Facts:
    """This rank's `skew` against rank 0, in seconds; rank 0 answers the others one after another."""
    if context.talk is None:
        return {}
    if context.rank:
        _, skew = min(_ask(context) for _ in range(QUESTIONS))
        return {"skew": skew}
    for rank in range(1, context.world_size):
        for _ in range(QUESTIONS):
            _tell(context, rank)
    return {"skew": 0.0}


def _ask(context: RankContext) -> tuple[float, float]:
    """Seconds that the question took, and by how many this clock is ahead of the one asked."""
    there = torch.zeros(1, dtype=torch.float64)
    asked = time.time()
    dist.send(there, 0, group=context.talk)
    dist.recv(there, 0, group=context.talk)
    answered = time.time()
    return answered - asked, (asked + answered) / 2 - there.item()


def _tell(context: RankContext, rank: int) -> None:
    question = torch.zeros(1, dtype=torch.float64)
    dist.recv(question, rank, group=context.talk)
    dist.send(torch.tensor([time.time()], dtype=torch.float64), rank, group=context.talk)


def judge_clock(reports: Reports, limits: Limits) -> Iterator[Finding]:
    """Find clocks that are further than `max_skew` from that of rank 0."""
    for rank, facts in sorted(reports.items()):
        if abs(facts["skew"]) > limits.max_skew:
            side = "ahead of" if facts["skew"] > 0 else "behind"
            text = f"its clock is {abs(facts['skew']):.1f} s {side} that of rank 0; --max_skew is {limits.max_skew:g}"
            yield Finding(rank=rank, text=text)


def show_clock(reports: Reports) -> str:
    """Smallest and largest skew against rank 0, in seconds."""
    return f"{span([facts['skew'] for facts in reports.values()], lambda skew: f'{skew:+.3f}')} s from rank 0"


CLOCK = Check(name="clock", measure=clock, judge=judge_clock, show=show_clock)
