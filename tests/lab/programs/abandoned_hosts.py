"""Two hosts on which something runs, and whose maker is killed."""

from __future__ import annotations

import os
import signal

from lab import hosts

if __name__ == "__main__":
    with hosts.two_hosts() as both:
        both.start(0, ["sleep", "1236"])
        os.kill(os.getpid(), signal.SIGKILL)
