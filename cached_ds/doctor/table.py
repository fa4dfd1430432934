"""Table: one row per check, its findings below it with the ranks' names, and a last line that sums up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cached_ds.doctor.checks.check import Finding, listed


@dataclass(frozen=True, kw_only=True)
class Row:
    """One check's row in the table.

    Attributes:
        name: the check's.
        text: what it found, in short.
        findings: what is wrong; each is printed below the row.
    """

    name: str
    text: str
    findings: Sequence[Finding]

    @property
    def verdict(self) -> str:
        """The worst of the findings: "ok", "warning" or "FAULT"."""
        if not self.findings:
            return "ok"
        return "warning" if all(finding.warning for finding in self.findings) else "FAULT"


def render(rows: Sequence[Row], hosts: Mapping[int, str]) -> str:
    """The whole table, one line per row and finding, for ranks on the given hosts."""
    ranks, machines = len(hosts), len(set(hosts.values()))
    lines = [f"cached-ds doctor: {_count(ranks, 'rank')} on {_count(machines, 'host')}"]
    width = max(len(row.name) for row in rows)
    for row in rows:
        lines.append(f"{row.verdict:8} {row.name:{width}}  {row.text}".rstrip())
        lines += [f"{'':8} {'':{width}}  - {line}" for line in _sentences(row.findings, hosts)]
    return "\n".join([*lines, _last_line(rows, hosts)])


def _sentences(findings: Sequence[Finding], hosts: Mapping[int, str]) -> list[str]:
    """One sentence for findings with the same text, beginning with their ranks."""
    where: dict[str, list[int]] = {}
    for finding in findings:
        where.setdefault(finding.text, []).extend(hosts if finding.rank is None else [finding.rank])
    return [f"{_named(ranks, hosts)}: {text}" for text, ranks in where.items()]


def _named(ranks: Sequence[int], hosts: Mapping[int, str]) -> str:
    if len(ranks) == len(hosts) and len(hosts) > 1:
        return "all ranks"
    names = [f"{rank} ({hosts[rank]})" for rank in ranks]
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {listed(names)}"


def _last_line(rows: Sequence[Row], hosts: Mapping[int, str]) -> str:
    faults = [finding for row in rows for finding in row.findings if not finding.warning]
    warnings = sum(len(row.findings) for row in rows) - len(faults)
    known = f", {_count(warnings, 'warning')}" if warnings else ""
    if not faults:
        return f"healthy{known}"
    ranks = sorted({rank for fault in faults for rank in (hosts if fault.rank is None else [fault.rank])})
    return f"{_count(len(faults), 'fault')}{known}; at fault: {_named(ranks, hosts)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
