"""What must be the same on all ranks: the code, the versions, the settings. Each rank states its facts.

Facts are read from the command line as it stands, before it is parsed, so that a rank whose recipe is missing or broken
still arrives where the ranks meet and is named there.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from cached_ds.settings.config_files import FILE_ENDINGS, read_mapping

LIBRARIES = ("torch", "transformers", "accelerate", "deepspeed")
MAY_DIFFER = {"local_rank", "output_dir", "logging_dir", "offload_folder"}  # places on a node's own disks
CONFIG_FILES = ("deepspeed", "deepspeed_config", "fsdp_config")
ENVIRONMENT = ("ACCELERATE_", "FSDP_")  # how `accelerate launch` hands over its config file
NAMED = 8


def settings(argv: Sequence[str]) -> dict[str, str]:
    """The command line and the recipe it begins with as names and values; flags win. Nothing is checked."""
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


def facts(argv: Sequence[str], environ: Mapping[str, str], *, script: Path | None = None) -> dict[str, str]:
    """All that the ranks of one run must have in common, by name.

    Args:
        argv: the command line after the program's name.
        environ: the environment.
        script: the program, whose text counts as the package's does.
    """
    package = Path(__file__).parents[1]
    found = {"the source code of cached_ds": _digest(*sorted(package.rglob("*.py")), root=package)}
    if script is not None and script.is_file():
        found[f"the source code of {script.name}"] = _digest(script, root=script.parent)
    found["the version of python"] = platform.python_version()
    found |= {f"the version of {name}": metadata.version(name) for name in LIBRARIES}
    named = settings(argv)
    found |= {f"--{name}": value for name, value in named.items() if name not in MAY_DIFFER}
    for path in (named[name] for name in CONFIG_FILES if named.get(name, "").endswith(FILE_ENDINGS)):
        found |= {f"{path}: {name}": value for name, value in _flat(path).items()}
    return found | {name: value for name, value in environ.items() if name.startswith(ENVIRONMENT)}


def difference(facts_of: Sequence[Mapping[str, str]], hosts: Sequence[str]) -> str | None:
    """One sentence on the first fact that is not the same on all ranks, or None; both by rank."""
    names = list(dict.fromkeys(name for stated in facts_of for name in stated))
    different = [name for name in names if len({stated.get(name) for stated in facts_of}) > 1]
    if not different:
        return None
    name = different[0]
    ranks_of: dict[str | None, list[int]] = {}
    for rank, stated in enumerate(facts_of):
        ranks_of.setdefault(stated.get(name), []).append(rank)
    sides = [
        f"{'not there' if value is None else repr(value)} on {named_ranks(ranks, hosts)}"
        for value, ranks in ranks_of.items()
    ]
    others = f"; {len(different) - 1} more differ" if len(different) > 1 else ""
    return f"the ranks differ: {name} is {', '.join(sides)}{others}"


def named_ranks(ranks: Iterable[int], hosts: Sequence[str] | Mapping[int, str]) -> str:
    """Ranks with their hosts, the first few of them."""
    return listed(f"rank {rank} (host {hosts[rank]})" for rank in ranks)


def listed(words: Iterable[str]) -> str:
    """The first few words and the number of the others."""
    first, others = (all_words := list(words))[:NAMED], all_words[NAMED:]
    return ", ".join([*first, *([f"{len(others)} more"] if others else [])])


def _flat(path: str) -> dict[str, str]:
    """The mapping in a file, with dotted names; where it cannot be read, what is wrong with it."""
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


def _digest(*paths: Path, root: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
