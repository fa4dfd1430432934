"""A train.py that trains as the real one does, but rank 1 comes to an end in the middle of its third step.

By DEATH it is `killed` or `stopped`, has `raised` an error, or falls `asleep` for longer than any test takes; the file
REPORTS/fatal says that this moment has come. Each start notes in REPORTS/attempt_N the step that it begins with; only
the first one ends.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "launch"))

import train  # noqa: E402
from cached_ds.watch.exchange import BEAT  # noqa: E402

LAST_STEP = 2


def end(death):
    """Let this rank come to an end; one that stands still has time to tell the others where it is."""
    Path(os.environ["REPORTS"], "fatal").touch()
    if death == "raised":
        raise RuntimeError("planned")
    if death == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(3 * BEAT)
    if death == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(1000)


class MortalTrainer(train.CachedSeq2SeqTrainer):
    """The trainer of launch/train.py until rank 1 dies."""

    def training_step(self, *arguments, **more):
        attempt = Path(os.environ["REPORTS"], f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}")
        if not attempt.exists():
            attempt.write_text(str(self.state.global_step), encoding="utf-8")
        if self.state.global_step == LAST_STEP and os.environ["RANK"] == "1" and attempt.name == "attempt_0":
            end(os.environ["DEATH"])
        return super().training_step(*arguments, **more)


if __name__ == "__main__":
    train.CachedSeq2SeqTrainer = MortalTrainer
    train.main(sys.argv[1:])
