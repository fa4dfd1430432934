"""Who says what: files per rank, the console for rank 0, errors with rank and host."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import sys
import warnings

from cached_ds.ranks import logs as rank_logs
from cached_ds.ranks.discovery import RankInfo


def life_of(rank, folder):
    """A rank that says something and fails; run in a process of its own."""
    sys.stderr = (folder / f"console_{rank}").open("w")
    info = RankInfo(
        rank=rank, world_size=4, local_rank=rank, local_world_size=4,
        master_addr="a", master_port=1, source="torchrun",
    )  # fmt: skip
    rank_logs.install_excepthook(info)
    rank_logs.set_up(info, library_level=logging.WARNING)
    logging.getLogger("cached_ds").info("some news")
    assert not (folder / "logs" / f"rank_{rank:05d}.log").exists(), "a run that is refused leaves nothing behind"
    rank_logs.open_file(info, str(folder))
    logging.getLogger("transformers").warning("from a library")
    warnings.simplefilter("always")  # other tests may have left another filter
    warnings.warn("a warning", stacklevel=1)
    sys.excepthook(RuntimeError, RuntimeError("planned"), None)


def test_each_rank_has_its_file_and_errors_name_rank_and_host(tmp_path):
    for rank in (0, 3):
        if (child := os.fork()) == 0:
            atexit._clear()  # the exit handlers are those of the tests: they would end its ranks and remove its folders
            life_of(rank, tmp_path)
            os._exit(0)  # not reached: the hook ends the process
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        log, console = tmp_path / "logs" / f"rank_{rank:05d}.log", tmp_path / f"console_{rank}"
        failure = f"rank {rank} of 4 on host {socket.gethostname()}: RuntimeError"
        news = ("some news", "from a library", "a warning")
        assert all(words in log.read_text() for words in (*news, failure, "planned")), log.read_text()
        assert failure in console.read_text() and "planned" in console.read_text()
        assert all((words in console.read_text()) == (rank == 0) for words in news), console.read_text()
