"""Another program that has a port, and says nothing: `silent_listener.py PORT`."""

from __future__ import annotations

import socket
import sys
import time

if __name__ == "__main__":
    with socket.create_server(("", int(sys.argv[1]))):
        time.sleep(600)
