"""Timetable: stages one after another, each in a fresh process with a limit of time, all within the sum of the limits.

A stage is a script of stages/. It gets its settings as JSON in its only argument, among them the time at which it must
be ready, and prints rows: one JSON object a line, written down as it comes. What else it says goes to a log. A stage
that fails, or is ended at its limit, does not stop those after it, and its rows so far are kept. What a stage leaves of
its time goes to the next.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.machine import BENCHMARKS, Machine
from harness.trials import Result, Store, Trial

GRACE = 5.0  # seconds between the time at which a stage should be ready and that at which it is ended


@dataclass(frozen=True)
class Stage:
    """A script of stages/ with its settings.

    Attributes:
        name: what its rows are found by.
        script: of stages/.
        settings: as JSON knows them.
        limit: seconds.
    """

    name: str
    script: str
    settings: dict[str, Any]
    limit: float

    def trial(self, settings: dict[str, Any], *, round: int = 0) -> Trial:
        """A row of this stage, as the store takes it."""
        return Trial({"stage": self.name, **settings}, round, self.script)


def run_all(
    stages: Sequence[Stage], machine: Machine, store: Store, *, log: Path, after_each: Callable[[], None]
) -> None:
    """Run the stages in their order; call `after_each` after each. Each has a last row with its seconds."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("", encoding="utf-8")
    end = time.monotonic() + sum(stage.limit for stage in stages)
    for number, stage in enumerate(stages):
        begin, later = time.monotonic(), sum(stage.limit for stage in stages[number + 1 :])
        result = run(stage, machine, store, log=log, seconds=end - later - begin)
        result["seconds"] = time.monotonic() - begin
        store.add(stage.trial({}), result)
        print(f"{stage.name}: {result.get('failed', 'done')}, {result['seconds']:.0f} s", file=sys.stderr, flush=True)
        after_each()


def run(stage: Stage, machine: Machine, store: Store, *, log: Path, seconds: float) -> Result:
    """Run one stage and store its rows; returns `{"failed": reason}` where it did not come to its end."""
    settings = {**stage.settings, "until": time.time() + seconds - GRACE}
    start = log.stat().st_size
    command = [sys.executable, str(BENCHMARKS / "stages" / stage.script), json.dumps(settings)]
    with log.open("a", encoding="utf-8") as errors, subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=machine.environment(),
        preexec_fn=machine.confine,
        start_new_session=True,
    ) as child:  # fmt: skip
        timer = threading.Timer(seconds, _end, [child.pid])
        timer.start()
        assert child.stdout is not None
        for line in child.stdout:
            if line.endswith("\n"):  # not what a process was writing when it was ended
                row = json.loads(line)
                store.add(stage.trial(row["settings"], round=row["round"]), row["result"])
        code, is_late = child.wait(), not timer.is_alive()
        timer.cancel()
    reason = f"more than {seconds:.0f} s" if is_late else f"exit code {code}"
    return {"failed": f"{reason}: {_last_line(log, start=start)}"} if code else {}


def _end(group: int) -> None:
    """End a stage with all that it started."""
    os.killpg(group, signal.SIGKILL)


def _last_line(log: Path, *, start: int) -> str:
    """What was said last from this byte on: the test that did not end, or the error."""
    lines = log.read_bytes()[start:].decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no word"
