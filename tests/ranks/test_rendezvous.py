"""Where the ranks meet: who is missing, which port is in use and what differs is said by every rank that is there.

Ranks that are refused are threads; ranks that make a process group are forked processes, since a process has one.
"""

from __future__ import annotations

import multiprocessing
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from cached_ds.ranks import agreement
from cached_ds.ranks.discovery import RankInfo
from cached_ds.ranks.mpi import free_port
from cached_ds.ranks.rendezvous import init_process_group

pytestmark = pytest.mark.timeout(60)
HOST = socket.gethostname()
FACTS = {"the version of torch": "2", "--learning_rate": "0.1"}


def info(rank, port, *, world_size=2):
    return RankInfo(
        rank=rank, world_size=world_size, local_rank=rank, local_world_size=world_size,
        master_addr="127.0.0.1", master_port=port, source="torchrun",
    )  # fmt: skip


def meet(info, facts, *, patience=10):
    init_process_group(info, facts=facts, backend="gloo", patience=patience, timeout=timedelta(seconds=20))


def refusals(*ranks, patience=10):
    """The messages of ranks, given as pairs of info and facts, that meet at once and are all refused."""

    def refused(info, facts):
        with pytest.raises(ValueError) as caught:
            meet(info, facts, patience=patience)
        return str(caught.value)

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(refused, *zip(*ranks, strict=True)))


def test_missing_ranks_are_named_by_all_that_came():
    port = free_port()
    messages = refusals(*((info(rank, port, world_size=4), FACTS) for rank in (0, 2)), patience=1)
    expected = f"rank 1, 3 of 4 did not arrive within 1 s; those that did: rank 0 (host {HOST}), rank 2 (host {HOST})"
    assert messages == [expected] * 2


def test_a_missing_master_is_named():
    port = free_port()
    (message,) = refusals((info(1, port), FACTS), patience=1)
    assert re.match(rf"rank 0 of 2 did not arrive at port {port} of 127.0.0.1 within 1 s \(.*refused\)", message)


@pytest.mark.parametrize("facts", [{"--learning_rate": "0.2"}, {}], ids=["other", "none"])
def test_ranks_that_differ_are_refused(facts):
    port = free_port()
    other = {"the version of torch": "2"} | facts
    messages = refusals((info(0, port), FACTS), (info(1, port), other))
    value = "'0.2'" if facts else "not there"
    expected = f"the ranks differ: --learning_rate is '0.1' on rank 0 (host {HOST}), {value} on rank 1 (host {HOST})"
    assert messages == [expected] * 2


def test_a_port_in_use_is_named_by_all(monkeypatch):
    monkeypatch.setattr("cached_ds.ranks.rendezvous.ANSWER_SECONDS", 1)
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        messages = refusals((info(0, port), FACTS), (info(1, port), FACTS))
    assert all(f"port {port} of 127.0.0.1 is in use" in message for message in messages), messages


def test_two_processes_with_one_rank_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    agent = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    messages = refusals(*[(info(1, agent.port), FACTS)] * 2)
    assert all("two processes claim to be rank 1 of 2" in message and HOST in message for message in messages), messages


def _member(rank, port, results):
    torch.set_num_threads(1)
    meet(info(rank, port), FACTS)
    total = torch.tensor([rank + 1.0])
    dist.all_reduce(total)
    results.put((rank, dist.get_backend(), total.item()))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("attempts", [["0"], ["0", "1"]], ids=["own-store", "agent-store-restarted"])
def test_ranks_that_agree_form_a_group(attempts, monkeypatch):
    context = multiprocessing.get_context("fork")
    port, agent = free_port(), None
    if len(attempts) > 1:
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        agent = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        port = agent.port
    for attempt in attempts:
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        results = context.SimpleQueue()
        members = [context.Process(target=_member, args=(rank, port, results), daemon=True) for rank in range(2)]
        for member in members:
            member.start()
        for member in members:
            member.join(40)
        assert sorted(results.get() for _ in members) == [(0, "gloo", 3.0), (1, "gloo", 3.0)]


def test_only_the_first_of_many_ranks_are_listed():
    facts = [{"x": "1"}] * 100 + [{"x": "2"}]
    message = agreement.difference(facts, ["a"] * 101)
    assert "rank 7 (host a), 92 more" in message and "rank 8 " not in message and "rank 100 (host a)" in message
