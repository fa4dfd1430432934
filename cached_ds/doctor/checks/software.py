"""Software: tested versions, and the same on every rank as is the code; a command line that launch/train.py accepts."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cached_ds.doctor.checks.check import Check, Facts, Finding, Reports, odd_values, unequal_files
from cached_ds.doctor.checks.context import Limits, RankContext
from cached_ds.op_locks import stale_locks
from cached_ds.provenance import facts
from cached_ds.run.arguments import parse
from cached_ds.settings.config_files import read_mapping
from cached_ds.settings.unknown_names import unknown
from cached_ds.settings.versions import TESTED, refusal, warning

TRAIN = facts.PACKAGE.parent / "launch" / "train.py"


def versions(context: RankContext) -> Facts:
    """Versions of Python and of the packages that a run imports, and of CUDA and NCCL on GPUs."""
    found = facts.versions()
    if context.device.type == "cuda":
        found |= {"CUDA": str(torch.version.cuda), "NCCL": ".".join(map(str, torch.cuda.nccl.version()))}
    return {"versions": found}


def judge_versions(reports: Reports, _: Limits) -> Iterator[Finding]:
    """Find versions that differ from those of most ranks, and those that are not in the tested range."""
    for rank, name, value, usual in odd_values(reports, "versions"):
        yield Finding(rank=rank, text=f"{name} {value or 'is missing'}; other ranks have {usual}")
    found = {item for facts in reports.values() for item in facts["versions"].items() if item[0] in TESTED}
    yield from (Finding(text=text) for item in sorted(found) if (text := refusal(*item)))
    yield from (Finding(text=text, warning=True) for item in sorted(found) if (text := warning(*item)))


def show_versions(reports: Reports) -> str:
    """The first rank's versions."""
    found = next(iter(reports.values()))["versions"]
    return ", ".join(f"{name} {version}" for name, version in found.items())


def code(_: RankContext) -> Facts:
    """Digests of the source files of cached_ds, and of launch/train.py in a clone."""
    return {"files": facts.source_digests(*([TRAIN] if TRAIN.is_file() else []))}


def show_code(reports: Reports) -> str:
    """The number of source files that were compared."""
    return f"{len(next(iter(reports.values()))['files'])} source files"


def locks(_: RankContext) -> Facts:
    """Locks of DeepSpeed's operators that a killed run has left on this host."""
    return {"locks": [str(path) for path in stale_locks()]}


def judge_locks(reports: Reports, _: Limits) -> Iterator[Finding]:
    """Find every lock: launch/train.py removes it, but a script that calls `deepspeed.initialize` waits for ever."""
    for rank, found in sorted(reports.items()):
        for path in found["locks"]:
            yield Finding(rank=rank, text=f"{path} is the lock of a run that was killed; remove it", warning=True)


def show_locks(reports: Reports) -> str:
    """Show how many there are."""
    count = len({path for found in reports.values() for path in found["locks"]})
    return f"{count} left by killed builds of operators"


def arguments(context: RankContext) -> Facts:
    """The run's flags, once the command line is read as launch/train.py does, and accelerate's config is checked.

    Raises:
        ValueError: what `parse` and `check_accelerate_config` refuse.
    """
    config = context.limits.accelerate_config
    if config is not None:
        check_accelerate_config(config)
    if context.argv:
        parse(context.argv)
    read = [*(["the command line"] if context.argv else []), *([config] if config else [])]
    flags = {
        f"--{name}": value for name, value in facts.settings(context.flags).items() if name not in facts.MAY_DIFFER
    }
    return {"read": read, "flags": flags}


def judge_arguments(reports: Reports, _: Limits) -> Iterator[Finding]:
    """Find flags that differ from those of most ranks; what cannot be read was raised by `arguments`."""
    for rank, name, value, usual in odd_values(reports, "flags"):
        own = "is not given" if value is None else value
        yield Finding(rank=rank, text=f"{name} {own}; other ranks have {usual or 'it'}")


def show_arguments(reports: Reports) -> str:
    """Which command line and config were read."""
    read = next(iter(reports.values()))["read"]
    return f"{' and '.join(read)} as in launch/train.py" if read else "none given: give those of your run"


def check_accelerate_config(path: str) -> None:
    """Refuse keys that accelerate does not know; in `fsdp_config`, it would ignore them.

    Raises:
        ValueError: all unknown keys, each with the nearest known one; or a file that is not a mapping.
    """
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser

    config = read_mapping(path)
    known = set(ClusterConfig.__dataclass_fields__)
    flags = {action.dest for action in launch_command_parser()._actions if action.dest.startswith("fsdp_")}
    flags |= {flag.removeprefix("fsdp_") for flag in flags}
    section = config.get("fsdp_config") or {}
    complaints = [unknown(key, known, kind="accelerate key") for key in config if key not in known]
    complaints += [f"fsdp_config: {unknown(key, flags, kind='key')}" for key in section if key not in flags]
    if complaints:
        raise ValueError(f"{path}: {'; '.join(complaints)}")


VERSIONS = Check(name="versions", measure=versions, judge=judge_versions, show=show_versions)
CODE = Check(name="code", measure=code, judge=lambda reports, _: unequal_files(reports), show=show_code)
LOCKS = Check(name="locks", measure=locks, judge=judge_locks, show=show_locks)
ARGUMENTS = Check(name="arguments", measure=arguments, judge=judge_arguments, show=show_arguments)
