"""Rendezvous: all ranks meet before any work; missing ranks are named, and ranks that differ are refused.

Each rank
  1. connects to the store at the master's address (rank 0 opens it, or torchrun's agent has);
  2. claims its number, so that no other process has the same;
  3. leaves a card: its host and the facts that must be the same everywhere (agreement.py);
  4. waits for the verdict. The last rank to arrive compares all cards and gives it; a rank that has waited too long
     also gives one, with the names of the missing ranks. The first verdict holds, so all ranks report the same;
  5. makes torch's process group on the same store, which accelerate and DeepSpeed take over.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
import time
from collections.abc import Mapping
from datetime import timedelta

import torch.distributed as dist

from cached_ds.ranks.agreement import difference, named_ranks, shortened
from cached_ds.ranks.discovery import RankInfo

AGREED = "agreed"
RETRY_SECONDS = 0.2
ANSWER_SECONDS = 10  # for a store that has accepted the connection


def init_process_group(
    info: RankInfo,
    *,
    facts: Mapping[str, str],
    backend: str,
    patience: float,
    timeout: timedelta,
) -> None:
    """Meet the other ranks and make the process group.

    Args:
        info: this rank among all.
        facts: everything that must be the same on all ranks, by name.
        backend: of torch's process group, such as "gloo", "nccl" or "cuda:nccl,cpu:gloo".
        patience: seconds to wait for the other ranks.
        timeout: of the group's collectives.

    Raises:
        ValueError: a rank did not arrive in time; two processes have one rank; the port is in use; the ranks differ.
    """
    deadline = time.monotonic() + patience
    store = _open(info, deadline)
    # torchrun's agent keeps its store across restarts.
    attempt = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    try:
        _Meeting(info, dist.PrefixStore("meeting", attempt), patience=patience).hold(facts, deadline)
    except dist.DistNetworkError as error:
        raise ValueError(f"rank 0 or the launcher at {info.master_addr} ended while the ranks met") from error
    store.set_timeout(timeout)
    dist.init_process_group(backend, store=attempt, rank=info.rank, world_size=info.world_size, timeout=timeout)


class _Meeting:
    """The exchange of cards of one attempt."""

    def __init__(self, info: RankInfo, store: dist.Store, *, patience: float) -> None:
        self.info, self.store, self.patience = info, store, patience

    def hold(self, facts: Mapping[str, str], deadline: float) -> None:
        """Arrive, and wait for the verdict."""
        host, rank, size = socket.gethostname(), self.info.rank, self.info.world_size
        if self.store.add(f"claims/{rank}", 1) > 1:
            self._decide(
                f"two processes claim to be rank {rank} of {size}, one of them on host {host}: two nodes have the same "
                f"node rank, or another run uses port {self.info.master_port} of {self.info.master_addr}"
            )
            raise ValueError(self._verdict(deadline))
        self.store.set(f"cards/{rank}", json.dumps({"host": host, "facts": dict(facts)}))
        if self.store.add("arrived", 1) == size:
            self._decide(self._compared())
        self._obey(self._verdict(deadline))

    def _decide(self, verdict: str) -> None:
        self.store.compare_set("verdict", "", verdict)

    def _compared(self) -> str:
        cards = [json.loads(self.store.get(f"cards/{rank}")) for rank in range(self.info.world_size)]
        return difference([card["facts"] for card in cards], [card["host"] for card in cards]) or AGREED

    def _verdict(self, deadline: float) -> str:
        try:
            self.store.wait(["verdict"], timedelta(seconds=max(deadline - time.monotonic(), 0.001)))
        except dist.DistStoreError:
            self._decide(self._missing())
        verdict: bytes = self.store.get("verdict")
        return verdict.decode()

    def _missing(self) -> str:
        size = self.info.world_size
        there = [rank for rank in range(size) if self.store.check([f"cards/{rank}"])]
        hosts = {rank: json.loads(self.store.get(f"cards/{rank}"))["host"] for rank in there}
        absent = [rank for rank in range(size) if rank not in hosts]
        return (
            f"rank {shortened(map(str, absent))} of {size} did not arrive within {self.patience:g} s; those that did: "
            f"{named_ranks(there, hosts)}"
        )

    def _obey(self, verdict: str) -> None:
        if verdict == AGREED:
            return
        self.store.add("heard", 1)
        if self.info.rank == 0:
            self._linger()
        raise ValueError(verdict)

    def _linger(self) -> None:
        """Keep the store open until those that arrived have read the verdict."""
        end = time.monotonic() + ANSWER_SECONDS
        while self.store.add("heard", 0) < self.store.add("arrived", 0) and time.monotonic() < end:
            time.sleep(RETRY_SECONDS)


def _open(info: RankInfo, deadline: float) -> dist.TCPStore:
    """The store at the master's address: opened by rank 0, unless torchrun's agent holds it."""
    address = f"port {info.master_port} of {info.master_addr}"
    is_master = info.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not is_master:
        _await_master(info, deadline)
    found: queue.SimpleQueue[dist.TCPStore | RuntimeError] = queue.SimpleQueue()
    # In a thread, since torch waits for ever if another program accepts the connection and does not answer.
    threading.Thread(target=_connect, args=(info, is_master, found), daemon=True).start()
    try:
        store = found.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        raise ValueError(f"{address} is in use by another program; choose another MASTER_PORT") from None
    if isinstance(store, RuntimeError):
        reason = str(store).splitlines()[0]
        if "EADDRINUSE" in reason:
            raise ValueError(f"{address} is in use; choose another MASTER_PORT") from store
        raise ValueError(f"no store at {address}: {reason}") from store
    return store


def _connect(info: RankInfo, is_master: bool, found: queue.SimpleQueue[dist.TCPStore | RuntimeError]) -> None:
    try:
        found.put(dist.TCPStore(info.master_addr, info.master_port, is_master=is_master, wait_for_workers=False))
    except dist.DistNetworkError as error:
        found.put(error)


def _await_master(info: RankInfo, deadline: float) -> None:
    """Wait until something listens at the master's address."""
    begin = time.monotonic()
    while True:
        try:
            socket.create_connection((info.master_addr, info.master_port), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"rank 0 of {info.world_size} did not arrive at port {info.master_port} of {info.master_addr} "
                    f"within {time.monotonic() - begin:.0f} s ({error})"
                ) from error
            time.sleep(RETRY_SECONDS)
        else:
            return
