"""Bytes from one host to another.

`wire.py receive` waits for a sender and prints its address and how many bytes came; `wire.py send HOST BYTES` waits for
a receiver and sends them.
"""

from __future__ import annotations

import socket
import sys
import time

PORT, TRIES = 5000, 200


def receive():
    """Print who sent, and how much."""
    with socket.create_server(("0.0.0.0", PORT)) as server:
        connection, (peer, _) = server.accept()
        count = 0
        while part := connection.recv(9000):
            count += len(part)
    print(peer, count)


def send(host, count):
    """Send as soon as somebody listens."""
    for _ in range(TRIES):
        try:
            with socket.create_connection((host, PORT)) as connection:
                connection.sendall(bytes(count))
                return
        except ConnectionRefusedError:
            time.sleep(0.05)
    sys.exit(f"nobody listens on {host}")


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive()
    else:
        send(sys.argv[2], int(sys.argv[3]))
