"""The corpus: made-up inputs that `make fuzz FLAGS="--corpus N"` drew once, kept so that every run tries the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from lab.forking import Attempt

CORPUS = Path(__file__).with_name("corpus.json")


def read(path=CORPUS):
    """The attempts of the file."""
    return [_attempt(**record) for record in json.loads(path.read_text(encoding="utf-8"))]


def write(attempts, path=CORPUS):
    """Write the attempts into the file, a byte of a file as the character of its number; returns the path."""
    records = [dataclasses.asdict(attempt) for attempt in attempts]
    for record in records:
        record["files"] = {name: content.decode("latin-1") for name, content in record["files"].items()}
    path.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return path


def _attempt(*, files, **fields):
    return Attempt(files={name: content.encode("latin-1") for name, content in files.items()}, **fields)
