"""The end of a rank whose interpreter stands still; launch/test_watch.py has those of whole runs."""

from __future__ import annotations

import pytest

from lab import commands
from lab.programs import PROGRAMS


@pytest.mark.timeout(60)
def test_a_rank_that_holds_the_interpreter_leaves_its_stacks_and_ends():
    done = commands.run(["python", PROGRAMS / "held_rank.py"], timeout=40)
    assert done.returncode == 1, done.stdout
    assert "Timeout" in done.stdout and 'held_rank.py", line' in done.stdout, done.stdout
