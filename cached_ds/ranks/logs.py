"""Logs: each rank writes a file of its own, rank 0 also writes to the console, and an error names rank and host."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path
from types import TracebackType

import transformers

from cached_ds.leaving import give_up
from cached_ds.ranks.discovery import RankInfo
from cached_ds.settings.extras import needed_by

with needed_by(__name__):
    import datasets

CONSOLE_FORMAT = "%(asctime)s %(name)s: %(message)s"
FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CHATTY_LIBRARIES = ("transformers", "datasets", "DeepSpeed")  # their own handlers would print on every rank


def whereabouts(info: RankInfo | None) -> str:
    """`rank 3 of 4 on host a: `, or nothing for a process that is alone."""
    return "" if info is None else f"rank {info.rank} of {info.world_size} on host {socket.gethostname()}: "


def install_excepthook(info: RankInfo | None) -> None:
    """Let an uncaught exception name rank and host, and end this rank at once, so that the others end too.

    It replaces `sys.excepthook`. Call it after the process group is made, since torch sets a hook of its own there.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        logging.getLogger("cached_ds").critical("%s%s", whereabouts(info), kind.__name__, exc_info=(kind, error, trace))
        give_up(1)

    if info is not None:
        sys.excepthook = hook


def set_up(info: RankInfo | None, output_dir: str, *, library_level: int) -> None:
    """Log to `output_dir`/logs/rank_00000.log (with this rank's number) and to the console.

    On the console rank 0 shows all messages, the others only errors.

    Args:
        info: this rank; None for a process that is alone.
        output_dir: the folder of the run.
        library_level: the log level of transformers.
    """
    rank = 0 if info is None else info.rank
    path = Path(output_dir, "logs", f"rank_{rank:05d}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    console, file = logging.StreamHandler(), logging.FileHandler(path, encoding="utf-8")
    console.setFormatter(logging.Formatter(CONSOLE_FORMAT, datefmt="%H:%M:%S"))
    file.setFormatter(logging.Formatter(FILE_FORMAT))
    console.setLevel(logging.NOTSET if rank == 0 else logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=[console, file], force=True)
    logging.captureWarnings(True)
    for name in CHATTY_LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("cached_ds").setLevel(logging.INFO)
    transformers.logging.set_verbosity(library_level)
    if rank > 0:
        datasets.disable_progress_bars()
        transformers.logging.disable_progress_bar()
    logging.getLogger("cached_ds").info("%slog in %s", whereabouts(info), path)
