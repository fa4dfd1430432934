"""Who says what: each rank logs to a file of its own, rank 0 speaks on the console, an error names rank and host."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path
from types import TracebackType

import transformers

from cached_ds.leaving import give_up
from cached_ds.ranks.discovery import Place
from cached_ds.settings.extras import needed_by

with needed_by(__name__):
    import datasets

CONSOLE_FORMAT = "%(asctime)s %(name)s: %(message)s"
FILE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LIBRARIES = ("transformers", "datasets", "DeepSpeed")  # each would print by a handler of its own, on every rank


def whereabouts(place: Place | None) -> str:
    """`rank 3 of 4 on host a: `, or nothing for a process that is alone."""
    return "" if place is None else f"rank {place.rank} of {place.world_size} on host {socket.gethostname()}: "


def name_failures(place: Place | None) -> None:
    """Let an uncaught exception name rank and host, and end this rank at once, so that the others end too."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        logging.getLogger("cached_ds").critical(
            "%s%s", whereabouts(place), kind.__name__, exc_info=(kind, error, trace)
        )
        give_up(1)

    if place is not None:
        sys.excepthook = hook


def set_up(place: Place | None, output_dir: str, *, library_level: int) -> None:
    """Log to `output_dir`/logs/rank_00000.log and, on rank 0, to the console; the others show errors only there.

    Args:
        place: this rank; None for a process that is alone.
        output_dir: the folder of the run.
        library_level: of transformers' messages.
    """
    rank = 0 if place is None else place.rank
    path = Path(output_dir, "logs", f"rank_{rank:05d}.log")
    path.parent.mkdir(parents=True, exist_ok=True)
    console, file = logging.StreamHandler(), logging.FileHandler(path, encoding="utf-8")
    console.setFormatter(logging.Formatter(CONSOLE_FORMAT, datefmt="%H:%M:%S"))
    file.setFormatter(logging.Formatter(FILE_FORMAT))
    console.setLevel(logging.NOTSET if rank == 0 else logging.ERROR)
    logging.basicConfig(level=logging.WARNING, handlers=[console, file], force=True)
    logging.captureWarnings(True)
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("cached_ds").setLevel(logging.INFO)
    transformers.logging.set_verbosity(library_level)
    if rank > 0:
        datasets.disable_progress_bars()
        transformers.logging.disable_progress_bar()
    logging.getLogger("cached_ds").info("%slog in %s", whereabouts(place), path)
