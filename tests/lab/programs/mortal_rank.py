"""A train.py that trains as the real one does, but rank 1 comes to an end in the middle of its third step.

By DEATH it is `killed` or `stopped`, has `raised` an error, is `asleep`, or the `launcher` of all is killed. Each start
notes in REPORTS/attempt_N the step that it begins with; only the first one ends.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "launch"))

import train  # noqa: E402
from lab.running import MARKER  # noqa: E402

LAST_STEP = 2
SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}


def end(death):
    """Let this rank come to an end, or the launcher; a rank that is asleep would wake up after all tests are over."""
    if death in SIGNALS:
        os.kill(os.getpid(), SIGNALS[death])
    if death == "raised":
        raise RuntimeError("planned")
    if death == "launcher":
        os.kill(commands_of_launcher()[-1], signal.SIGKILL)
    time.sleep(1000)


def commands_of_launcher():
    """The processes between this one and the shell: DeepSpeed has two."""
    parents = [parent for parent in psutil.Process().parents() if MARKER in parent.environ()]
    return [parent.pid for parent in parents]


class MortalTrainer(train.CachedSeq2SeqTrainer):
    """The trainer of launch/train.py until rank 1 dies."""

    def training_step(self, *arguments, **more):
        attempt = Path(os.environ["REPORTS"], f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}")
        if not attempt.exists():
            attempt.write_text(str(self.state.global_step), encoding="utf-8")
        if self.state.global_step == LAST_STEP and os.environ["RANK"] == "1" and attempt.name == "attempt_0":
            Path(os.environ["REPORTS"], "fatal").touch()
            end(os.environ["DEATH"])
        return super().training_step(*arguments, **more)


if __name__ == "__main__":
    train.CachedSeq2SeqTrainer = MortalTrainer
    train.main(sys.argv[1:])
