"""The manifest of a checkpoint: who wrote it, and which files belong to it, with their sizes and SHA-256 digests.

It is written last. A folder without one was never finished; one whose files differ from it was damaged later. Its own
last entry is the digest of the others, so that no byte of a checkpoint can change without being noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
VERSION = 1


def sizes(folder: Path) -> dict[str, int]:
    """The bytes of every file below `folder`, by its path from there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(files)}


def shares(sizes: Mapping[str, int], *, count: int) -> list[list[str]]:
    """Deal files to `count` readers, so that each has about as many bytes."""
    dealt: list[list[str]] = [[] for _ in range(count)]
    taken = [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = taken.index(min(taken))
        dealt[least].append(name)
        taken[least] += sizes[name]
    return dealt


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of files, by name."""
    return {name: _digest(folder / name) for name in names}


def write(folder: Path, facts: Mapping[str, Any], *, sizes: Mapping[str, int], digests: Mapping[str, str]) -> None:
    """Write the manifest and see it on the disk.

    Args:
        folder: of the checkpoint.
        facts: what the run says about itself; values that JSON knows.
        sizes: bytes of all files, by name.
        digests: their SHA-256.
    """
    files = {name: {"bytes": size, "sha256": digests[name]} for name, size in sizes.items()}
    entries = {"version": VERSION, **facts, "files": files}
    with open(folder / MANIFEST, "w", encoding="utf-8") as file:
        json.dump(entries | {"sha256": _own_digest(entries)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> dict[str, Any]:
    """The entries of a manifest.

    Raises:
        ValueError: what is wrong with it, as a phrase about the checkpoint.
    """
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"holds no {MANIFEST}: it was not finished, or not written by cached_ds") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{MANIFEST} cannot be read: {error}") from error
    if not isinstance(entries, dict) or entries.pop("sha256", None) != _own_digest(entries):
        raise ValueError(f"{MANIFEST} was changed after it was written")
    if entries["version"] != VERSION:
        raise ValueError(f"{MANIFEST} is of version {entries['version']}; this cached_ds reads {VERSION}")
    return entries


def fault(folder: Path, *, share: int = 0, count: int = 1) -> str | None:
    """Why a folder is not a whole checkpoint, as a phrase; None if it is.

    Args:
        folder: of the checkpoint.
        share: which of the shares of its files to read,
        count: of how many: several ranks can read one checkpoint together.
    """
    try:
        files = read(folder)["files"]
    except ValueError as error:
        return str(error)
    for name in shares({name: entry["bytes"] for name, entry in files.items()}, count=count)[share]:
        path, entry = folder / name, files[name]
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != entry["bytes"]:
            return f"{name} has {size:,} bytes instead of {entry['bytes']:,}"
        if _digest(path) != entry["sha256"]:
            return f"{name} was changed after it was written"
    return None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_digest(entries: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
