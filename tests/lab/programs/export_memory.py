"""Export a small checkpoint and then a large one; print the memory that the large one took, at its highest, in bytes.

export_memory.py SMALL LARGE OUT. Counted is what the process holds of its own (RssAnon): pages of mapped files are the
system's, which takes them back where memory is short.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from cached_ds.export import export


def held():
    """Bytes of this process's own memory."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def highest_of(work):
    """The most that is held while `work` runs; the weights stay for as long as it takes to write them."""
    seen, is_done = [held()], threading.Event()

    def watch():
        while not is_done.wait(0.002):
            seen.append(held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    is_done.set()
    watcher.join()
    return max(seen)


if __name__ == "__main__":
    small, large, out = map(Path, sys.argv[1:])
    export(small, out / "small")  # brings all libraries
    before = held()
    print(f"peak {highest_of(lambda: export(large, out / 'large')) - before}")
