"""Facts of a run: digests of its code, versions of its libraries, settings of its command line and config files.

Settings are read from the command line as it is, before it is parsed, so that a rank whose recipe is missing or broken
still arrives where the ranks meet and is named there.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from cached_ds.settings.config_files import FILE_ENDINGS, read_mapping

PACKAGE = Path(str(importlib.resources.files("cached_ds")))
LIBRARIES = ("cached_ds", "torch", "transformers", "accelerate", "deepspeed", "datasets", "tokenizers")
MAY_DIFFER = {"local_rank", "output_dir", "logging_dir", "offload_folder"}  # a rank's number, paths on a node's disks
CONFIG_FLAGS = ("deepspeed", "deepspeed_config", "fsdp_config")
ENVIRONMENT = ("ACCELERATE_", "FSDP_")  # how `accelerate launch` hands over its config file
WHOLE = 2**23  # bytes up to which a file is read as a whole; of a larger one, so many samples of so many bytes
SAMPLES, SAMPLE = 32, 2**18


def facts(argv: Sequence[str], environ: Mapping[str, str], *, script: Path | None = None) -> dict[str, str]:
    """Everything that the ranks of one run must have in common, by name.

    Args:
        argv: the command line after the program's name.
        environ: the environment.
        script: the program, whose source is compared as the package's is.
    """
    found = {"the source code of cached_ds": digest_of_all(source_digests())}
    if script is not None and script.is_file():
        found[f"the source code of {script.name}"] = digest(script)
    found |= {f"the version of {name}": version for name, version in versions().items()}
    given = settings(argv)
    found |= {f"--{name}": value for name, value in given.items() if name not in MAY_DIFFER}
    for path in (given[name] for name in CONFIG_FLAGS if given.get(name, "").endswith(FILE_ENDINGS)):
        found |= {f"{path}: {name}": value for name, value in _flat(path).items()}
    return found | {name: value for name, value in environ.items() if name.startswith(ENVIRONMENT)}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a run imports; a library that is not installed is left out."""
    installed = {name: found for name in LIBRARIES if (found := _version(name)) is not None}
    return {"python": platform.python_version()} | installed


def source_digests(*others: Path) -> dict[str, str]:
    """Digests of the package's source files, and of other files beside the package, by path."""
    paths = [*sorted(PACKAGE.rglob("*.py")), *others]
    return {path.relative_to(PACKAGE.parent).as_posix(): digest(path) for path in paths}


def settings(argv: Sequence[str]) -> dict[str, str]:
    """The command line, and the recipe it may begin with, as names and values; flags win. Nothing is checked."""
    found = _flat(argv[0]) if argv and argv[0].endswith(FILE_ENDINGS) else {}
    name = ""
    for word in argv[1:] if found else argv:
        if word.startswith("--"):
            name, _, value = word.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            found[name] = value
        elif name:
            found[name] = f"{found[name]} {word}".strip()
    return found


def digest(path: Path) -> str:
    """16 hexadecimal digits of a file.

    They stand for its size and its content; for a large file, for its size and for samples, both ends among them.
    """
    size = path.stat().st_size
    summary = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            summary.update(file.read())
        else:
            for number in range(SAMPLES):
                file.seek((size - SAMPLE) * number // (SAMPLES - 1))
                summary.update(file.read(SAMPLE))
    return summary.hexdigest()[:16]


def digest_of_all(digests: Mapping[str, str]) -> str:
    """16 hexadecimal digits for several files, given by name and digest."""
    return hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()[:16]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _flat(path: str) -> dict[str, str]:
    """The mapping in a file, with dotted names; where it cannot be read, the reason."""
    try:
        return dict(_leaves(read_mapping(path), prefix=""))
    except (OSError, ValueError) as error:
        return {path: str(error)}


def _leaves(section: Mapping[str, Any], *, prefix: str) -> list[tuple[str, str]]:
    return [
        leaf
        for name, value in section.items()
        for leaf in (
            _leaves(value, prefix=f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else [(f"{prefix}{name}", str(value))]
        )
    ]
