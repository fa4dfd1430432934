"""Examination: make all checks on this rank, bring all ranks' facts together, and judge them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from cached_ds.doctor import table
from cached_ds.doctor.checks import clock, files, machine, network, software
from cached_ds.doctor.checks.check import Check, Facts, Finding
from cached_ds.doctor.checks.context import Limits, RankContext, make_context
from cached_ds.ranks import discovery, rendezvous

CHECKS = (
    software.VERSIONS, software.CODE, machine.DEVICES, machine.CORES, machine.MEMORY, machine.DISK, machine.LIMITS,
    clock.CLOCK, network.NETWORK, files.FILES, files.OUTPUT, software.LOCKS, software.ARGUMENTS,
)  # fmt: skip
FAILED = "failed"  # in place of facts: the message of the error that the check raised
UNKNOWN = {FAILED: "does not know this check: it runs other code"}


@dataclass(frozen=True)
class Examination:
    """The verdict on all ranks.

    Attributes:
        rank: this one.
        healthy: whether there are no faults; warnings do not count.
        text: the table.
    """

    rank: int
    healthy: bool
    text: str


def examine(argv: list[str], limits: Limits) -> Examination:
    """Examine this rank and compare it with the others; call it on all ranks.

    Args:
        argv: the command line of the run to come, as launch/train.py takes it; empty: no files or flags are checked.
        limits: what counts as healthy.

    Raises:
        ValueError: some ranks did not come, or what `discovery.discover` refuses.
        TimeoutError: some ranks no longer answer.
    """
    ensure_process_group(limits)
    context = make_context(argv, limits)
    everything = context.gather(
        {"host": context.host, "facts": {check.name: attempt(check, context) for check in CHECKS}}
    )
    hosts = {rank: report["host"] for rank, report in enumerate(everything)}
    facts = {rank: report["facts"] for rank, report in enumerate(everything)}
    rows = [
        judge(check, {rank: own.get(check.name, UNKNOWN) for rank, own in facts.items()}, limits) for check in CHECKS
    ]
    healthy = all(row.verdict != "FAULT" for row in rows)
    return Examination(context.rank, healthy, table.render(rows, hosts))


def ensure_process_group(limits: Limits) -> None:
    """Meet the ranks that the launcher has started, unless there is a process group or nobody to meet.

    Ranks may differ here: the table shows in what.
    """
    if dist.is_initialized() or (info := discovery.discover(os.environ)) is None:
        return
    discovery.export(info, os.environ)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    wait = limits.timeout
    rendezvous.init_process_group(info, facts={}, backend=backend, patience=wait, timeout=timedelta(seconds=wait))


def attempt(check: Check, context: RankContext) -> Facts:
    """This rank's facts, or under `FAILED` the error of the check."""
    try:
        return check.measure(context)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        return {FAILED: str(error) or type(error).__name__}


def judge(check: Check, facts: Mapping[int, dict[str, Any]], limits: Limits) -> table.Row:
    """The row of one check, with the findings of the ranks where it failed."""
    findings = [Finding(rank=rank, text=own[FAILED]) for rank, own in sorted(facts.items()) if FAILED in own]
    reports = {rank: own for rank, own in facts.items() if own and FAILED not in own}
    if reports:
        findings += check.judge(reports, limits)
    return table.Row(name=check.name, text=_text(check, reports, findings), findings=findings)


def _text(check: Check, reports: Mapping[int, Facts], findings: Sequence[Finding]) -> str:
    if reports:
        return check.show(reports)
    return "" if findings else "nothing to check"
