"""A server that runs launch/train.py once for every attempt, in a forked child: the libraries are imported only once.

Requests come on standard input, a line each: a JSON list of attempts, which run side by side. The answer is a line on
standard output: a list of exit codes, None where a child had to be killed. What a child writes is in FOLDER.out.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import deepspeed  # noqa: F401 - children shall find it imported, as all that follows
import matplotlib.pyplot  # noqa: F401
import torch

from cached_ds import zero  # noqa: F401
from cached_ds.ranks.mpi import free_port
from cached_ds.settings import deepspeed_config  # noqa: F401

POLL_SECONDS = 0.01


def serve(train):
    """Answer requests until there are no more."""
    for line in sys.stdin:
        attempts = json.loads(line)
        children = [start(train, attempt) for attempt in attempts]
        pairs = zip(children, attempts, strict=True)
        print(json.dumps([finish(child, attempt["seconds"]) for child, attempt in pairs]), file=ANSWERS, flush=True)


def start(train, attempt):
    """Fork a child that runs the script with the attempt's words in its folder; returns its process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    with open(f"{attempt['folder']}.out", "wb") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    os.chdir(attempt["folder"])
    if attempt["one_rank"]:  # as under a launcher, which DeepSpeed needs
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ["MASTER_PORT"] = str(free_port())
    sys.argv = ["train.py", *attempt["words"]]
    os._exit(exit_code(train))


def exit_code(train):
    """The exit code with which Python would end; what is raised ends the child, as it would end the script."""
    code = 0
    try:
        train.main(sys.argv[1:])
    except SystemExit as end:
        code = end.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def finish(child, seconds):
    """The exit code of a child; None if it took longer and was killed. Its own children end with it."""
    end, status = time.monotonic() + seconds, None
    while status is None and time.monotonic() < end:
        found, waited = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(waited) if found else None
        if status is None:
            time.sleep(POLL_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status


if __name__ == "__main__":
    (script,) = sys.argv[1:]
    sys.path.insert(0, str(Path(script).parent))
    torch.set_num_threads(1)
    import train as trained_script

    ANSWERS = os.fdopen(os.dup(1), "w")
    serve(trained_script)
