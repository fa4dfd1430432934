"""Logs: each rank writes a file of its own, rank 0 also writes to the console, and an error names rank and host.

The file is made when all input is checked, with what was said before: a run that is refused leaves nothing behind.
"""

from __future__ import annotations

import logging
import logging.handlers
import socket
import sys
import traceback
from pathlib import Path
from types import TracebackType

import torch.distributed as dist
import transformers

from cached_ds.leaving import give_up
from cached_ds.ranks.discovery import RankInfo
from cached_ds.settings.extras import needed_by
from cached_ds.watch.watchdog import current, log_file

with needed_by(__name__):
    import datasets

CONSOLE_FORMAT = "%(asctime)s %(name)s: %(message)s"
FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CHATTY_LIBRARIES = ("transformers", "datasets", "DeepSpeed")  # their own handlers would print on every rank


def whereabouts(info: RankInfo | None) -> str:
    """`rank 3 of 4 on host a: `, or nothing for a process that is alone."""
    return "" if info is None else f"rank {info.rank} of {info.world_size} on host {socket.gethostname()}: "


def install_excepthook(info: RankInfo | None) -> None:
    """Let an uncaught exception name rank and host, and end this rank at once; the watchdogs of the others hear of it.

    A rank that has lost another one in a collective is not at fault: its traceback goes to its file only, and its
    watchdog says what became of the other, if it finds that out.

    It replaces `sys.excepthook`. Call it after the process group is made, since torch sets a hook of its own there.
    """
    logger = logging.getLogger("cached_ds")

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        watchdog = current()
        if watchdog is not None and lost_another(error):
            traceback.print_exception(error, file=log_file())
            watchdog.bereft()
        logger.critical("%san error ends this rank", whereabouts(info), exc_info=(kind, error, trace))
        place = "" if watchdog is None else watchdog.where()
        sentence = f"{whereabouts(info)}{kind.__name__}: {' '.join(str(error).split())}{place}"
        logger.critical("%s", sentence)
        if watchdog is not None:
            watchdog.failed(sentence)
        give_up(1)

    if info is not None:
        sys.excepthook = hook


def lost_another(error: BaseException | None) -> bool:
    """Whether a collective has failed, which is the fault of another rank or of the network."""
    while error is not None:
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def set_up(info: RankInfo | None, *, library_level: int) -> None:
    """Log to the console, where rank 0 shows all messages, the others only errors.

    Args:
        info: this rank; None for a process that is alone.
        library_level: the log level of transformers.
    """
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter(CONSOLE_FORMAT, datefmt="%H:%M:%S"))
    console.setLevel(logging.NOTSET if _number(info) == 0 else logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=[console, _Kept()], force=True)
    logging.captureWarnings(True)
    for name in CHATTY_LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("cached_ds").setLevel(logging.INFO)
    transformers.logging.set_verbosity(library_level)
    if _number(info) > 0:
        datasets.disable_progress_bars()
        transformers.logging.disable_progress_bar()


def open_file(info: RankInfo | None, output_dir: str) -> None:
    """Write what was logged since `set_up`, and all that follows, to `output_dir`/logs/rank_00000.log (or its number).

    Args:
        info: this rank, as in `set_up`.
        output_dir: the folder of the run.
    """
    path = Path(output_dir, "logs", f"rank_{_number(info):05d}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter(FILE_FORMAT))
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Kept)]:
        handler.setTarget(file)
        handler.close()
        root.removeHandler(handler)
    root.addHandler(file)
    logging.getLogger("cached_ds").info("%slog in %s", whereabouts(info), path)


class _Kept(logging.handlers.MemoryHandler):
    """Keeps all messages until there is a file to write them to."""

    def __init__(self) -> None:
        super().__init__(capacity=0)

    def shouldFlush(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        """Never: `close` does."""
        return False


def _number(info: RankInfo | None) -> int:
    return 0 if info is None else info.rank
