"""A command with all the processes that come from it, wherever they are: what it wrote, and what it left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from helpers.repo import ROOT

BIN = Path(sys.executable).parent
MARKER = "CACHED_DS_TEST_RUN"  # in the environment of the command, and so of its children
GRACE = 5  # seconds for the children of a command that has ended


def environment(**changes):
    """This environment with its programs and this checkout first on the paths, for one thread per process."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    code = f"{ROOT / 'tests'}{os.pathsep}{ROOT}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": code, **changes}


@dataclass(frozen=True)
class Finished:
    """What became of a command.

    Attributes:
        returncode: its exit code; None if it had to be ended.
        output: what it and its children wrote.
        survivors: its children that were still there after it had ended, and were killed.
    """

    returncode: int | None
    output: str
    survivors: list[str]


class Running:
    """A command that runs, in a session of its own, with these changes to the environment."""

    def __init__(self, words, **changes):
        self.mark = f"{MARKER}={uuid.uuid4()}"
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would stay open as long as a child does
        env = environment(**changes) | {MARKER: self.mark.split("=")[1]}
        self.process = subprocess.Popen(
            [str(word) for word in words], cwd=ROOT, env=env, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def finish(self, timeout):
        """Wait so many seconds, kill what is left, and tell what happened."""
        try:
            returncode = self.process.wait(max(0, timeout))
            survivors = self._survivors()
        except subprocess.TimeoutExpired:
            returncode, survivors = None, []
        self.kill()
        self._output.seek(0)
        return Finished(returncode, self._output.read().decode(errors="replace"), survivors)

    def kill(self):
        """End every process of this command, at once."""
        while found := self.processes():
            for process in found:
                _unless_gone(os.kill, process, signal.SIGKILL)
            time.sleep(0.01)
        self.process.wait()

    def processes(self):
        """The numbers of the living processes of this command."""
        paths = Path("/proc").glob("[0-9]*/environ")
        return [int(path.parent.name) for path in paths if self.mark.encode() in (_unless_gone(path.read_bytes) or b"")]

    def _survivors(self):
        end = time.monotonic() + GRACE
        while (found := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        lines = [_unless_gone(Path(f"/proc/{process}/cmdline").read_bytes) or b"" for process in found]
        return [line.replace(b"\0", b" ").decode().strip() for line in lines]


def _unless_gone(function, *arguments):
    try:
        return function(*arguments)
    except OSError:
        return None
