"""Attempts: command lines and files that a user may give to launch/train.py, and what becomes of them.

Each runs in a fresh folder, in a child of `programs/forking_trainer.py`, which has all libraries imported: a refusal
takes tenths of a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from helpers.repo import TRAIN
from lab.programs import PROGRAMS
from lab.running import environment

OUTPUT = "out"  # the --output_dir of every attempt
SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What a user gives.

    Attributes:
        flags: flags and values; those of the workshop's run come beside them.
        files: contents by name; a flag finds them by this name.
        recipe: the name of the file that comes first on the command line.
    """

    flags: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    recipe: str | None = None

    def words(self, base):
        """The command line: values of `base` stand where neither a flag nor the recipe gives one."""
        said = self.files.get(self.recipe, b"").decode(errors="replace")
        values = {name: value for name, value in base.items() if name not in said} | self.flags
        first = [self.recipe] if self.recipe else []
        return [*first, *(f"--{name}={value}" for name, value in values.items())]

    def write(self, folder):
        """Make the folder and write the files into it."""
        folder.mkdir()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt: the exit code (None: it took too long), the output, and new files."""

    code: int | None
    output: str
    left: list[str]

    def fault(self):
        """What is wrong with it, whatever the attempt was; None if nothing is."""
        if self.code not in (0, 2):
            return f"exit code {self.code}"
        if "Traceback" in self.output:
            return "a traceback"
        if self.code == 2 and self.output.count("train.py: error: ") != 1:
            return "not one sentence"
        if self.code == 2 and self.left:
            return f"left behind: {self.left}"
        return None


class ForkingTrainer:
    """The server's other end; a context manager."""

    def __init__(self, workshop, folder):
        self.folder, self.count = Path(folder), 0
        self.base = {
            "model_name_or_path": workshop / "model", "train_file": workshop / "train.jsonl", "output_dir": OUTPUT,
            "window": 16, "do_train": True, "max_steps": 1, "per_device_train_batch_size": 1, "report_to": "none",
            "save_strategy": "no", "disable_tqdm": True,
        }  # fmt: skip

    def __enter__(self):
        caches = {"HF_HOME": str(self.folder / "hub"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.server = subprocess.Popen(
            [sys.executable, PROGRAMS / "forking_trainer.py", TRAIN], text=True, cwd=self.folder,
            env=environment(DS_ACCELERATOR="cpu", **caches), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(self, *_):
        self.server.stdin.close()
        assert self.server.wait(30) == 0

    def run(self, *attempts):
        """Run attempts side by side; returns an outcome each."""
        folders, requests = [], []
        for attempt in attempts:
            self.count += 1
            folders.append(self.folder / str(self.count))
            attempt.write(folders[-1])
            words, one_rank = attempt.words(self.base), "deepspeed" in attempt.flags
            requests.append({"words": words, "folder": str(folders[-1]), "seconds": SECONDS, "one_rank": one_rank})
        self.server.stdin.write(json.dumps(requests) + "\n")
        self.server.stdin.flush()
        codes = json.loads(self.server.stdout.readline())
        return [_outcome(*found) for found in zip(codes, folders, attempts, strict=True)]


def _outcome(code, folder, attempt):
    output = Path(f"{folder}.out").read_text(encoding="utf-8", errors="replace")
    left = sorted(path.name for path in folder.iterdir() if path.name not in attempt.files)
    return Outcome(code, output, left)
