"""Files: the same data, model and settings on every rank, and one output folder that all of them can write to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cached_ds.doctor.checks.check import Check, Facts, Finding, Reports, unequal_files
from cached_ds.doctor.checks.context import Limits, RankContext
from cached_ds.doctor.checks.machine import existing
from cached_ds.provenance.facts import digest
from cached_ds.settings.config_files import FILE_ENDINGS

FLAGS = (
    "--train_file", "--validation_file", "--test_file", "--deepspeed",
    "--model_name_or_path", "--config_name", "--tokenizer_name",
)  # fmt: skip


def files(context: RankContext) -> Facts:
    """Digests of the files that the command line names, and of the files in folders that it names."""
    named = [path for flag in FLAGS if (path := context.flag(flag))]
    named += [word for word in context.argv[:1] if word.endswith(FILE_ENDINGS)]
    named += [path for path in [context.limits.accelerate_config] if path]
    return {"files": {str(path): digest(path) for name in named for path in _inside(Path(name))}}


def _inside(path: Path) -> list[Path]:
    """The file, or the files of the folder; nothing for any other name, such as one on the hub."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    return [path] if path.is_file() else []


def show_files(reports: Reports) -> str:
    """The number of files that were compared."""
    return f"{len(next(iter(reports.values()))['files'])} files of the command line"


def output(context: RankContext) -> Facts:
    """Whether this rank can write to the output folder, and sees there the file that rank 0 writes."""
    folder = context.flag("--output_dir")
    here = existing(Path(folder)) if folder else None
    problem = _leave(here, context) if here else None
    context.wait()
    shared = here is not None and (here / _mark(context, rank=0)).exists()
    context.wait()
    if here is not None and problem is None:
        (here / _mark(context, rank=context.rank)).unlink()
    return {"folder": folder, "problem": problem, "shared": shared} if folder else {}


def _mark(context: RankContext, *, rank: int) -> str:
    return f".doctor-{context.token}-{rank}"


def _leave(folder: Path, context: RankContext) -> str | None:
    """Write this rank's file; returns the error's text, or None."""
    try:
        (folder / _mark(context, rank=context.rank)).write_text("cached-ds doctor\n", encoding="utf-8")
    except OSError as error:
        return error.strerror
    return None


def judge_output(reports: Reports, _: Limits) -> Iterator[Finding]:
    """Find ranks that cannot write, and warn of those that do not see what rank 0 writes."""
    written = 0 in reports and reports[0]["problem"] is None
    for rank, facts in sorted(reports.items()):
        if facts["problem"]:
            yield Finding(rank=rank, text=f"cannot write to {facts['folder']}: {facts['problem']}")
        elif written and not facts["shared"]:
            text = f"{facts['folder']} is not the folder of rank 0: checkpoints will lie on several disks"
            yield Finding(rank=rank, text=text, warning=True)


def show_output(reports: Reports) -> str:
    """The output folder, and how many ranks see what rank 0 writes."""
    seen = sum(facts["shared"] for facts in reports.values())
    return f"{next(iter(reports.values()))['folder']}: {seen} of {len(reports)} ranks see what rank 0 writes"


FILES = Check(name="files", measure=files, judge=lambda reports, _: unequal_files(reports), show=show_files)
OUTPUT = Check(name="output", measure=output, judge=judge_output, show=show_output)
