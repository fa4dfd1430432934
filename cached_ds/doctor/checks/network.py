"""Network: how fast all ranks reduce together, and how fast each rank's link to the next is, so that a slow one shows.

Sizes grow until a message takes long enough to be timed, so that a slow network need not carry 16 MiB. Disturbances
only ever make a link slower, so its best time counts. A link within a host is compared with others of its kind, one
between hosts with others between hosts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist

from cached_ds.doctor.checks.check import Check, Facts, Finding, Reports, span
from cached_ds.doctor.checks.context import Limits, RankContext

FIRST, LARGEST, GROWTH = 2**16, 2**24, 4  # bytes of a message
ENOUGH = 0.1  # seconds: a message that takes longer is not made larger
SMALL_REPEATS, LARGE_REPEATS = 20, 5
SLOWER = 4  # a link is slow at this many times the median of its kind
FLOOR = 0.001  # seconds added to that for latency, so that tiny ones are never called slow
PHASES = 3  # of the ring: no rank is in two links of one phase


def network(context: RankContext) -> Facts:
    """Latency (seconds) and bandwidth (bytes per second) of the all-reduce and of this rank's link to the next rank.

    Links of the ring that have no rank in common are timed at the same time.
    """
    if context.world_size == 1:
        return {}
    before, after = ((context.rank + step) % context.world_size for step in (-1, 1))
    facts: Facts = {"host": context.host, "to": after, "all_reduce": _all_reduce(context)}
    for phase in range(PHASES):
        if phase == _phase(context.rank, context.world_size):
            facts["link"] = _time_link(context, after)
        if phase == _phase(before, context.world_size):
            _answer_link(context, before)
    return facts


def _phase(rank: int, world_size: int) -> int:
    """The phase in which the link from `rank` to the next is timed; in an odd ring the last link has one of its own."""
    return 2 if world_size % 2 and rank == world_size - 1 else rank % 2


def _seconds(context: RankContext, work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    if context.device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - begin


def _bytes(context: RankContext, count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.uint8, device=context.device)


def _all_reduce(context: RankContext) -> dict[str, float]:
    """Latency of the all-reduce in seconds, and the bytes that each rank sends in a second."""
    small = _bytes(context, 4)
    latency = statistics.median(_seconds(context, lambda: dist.all_reduce(small)) for _ in range(SMALL_REPEATS))
    count = FIRST
    while _slowest(context, _all_reduce_seconds(context, count)) < ENOUGH and count < LARGEST:
        count *= GROWTH
    seconds = statistics.median(_all_reduce_seconds(context, count) for _ in range(LARGE_REPEATS))
    sent = 2 * count * (context.world_size - 1) / context.world_size
    return {"latency": latency, "bandwidth": sent / seconds}


def _all_reduce_seconds(context: RankContext, count: int) -> float:
    large = _bytes(context, count)
    return _seconds(context, lambda: dist.all_reduce(large))


def _slowest(context: RankContext, seconds: float) -> float:
    """The longest time of all ranks, so that all of them let the message grow together."""
    found = torch.tensor([seconds], device=context.device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return found.item()


def _time_link(context: RankContext, to: int) -> dict[str, float]:
    round_trip = min(_exchange(context, to, 1) for _ in range(SMALL_REPEATS))
    count = FIRST
    while (seconds := _exchange(context, to, count)) < ENOUGH + round_trip and count < LARGEST:
        count *= GROWTH
    seconds = min(seconds, *(_exchange(context, to, count) for _ in range(LARGE_REPEATS - 1)))
    dist.send(torch.tensor([0], device=context.device), to)
    return {"latency": round_trip / 2, "bandwidth": count / seconds}


def _exchange(context: RankContext, to: int, count: int) -> float:
    """Seconds to send so many bytes and receive one in return."""
    dist.send(torch.tensor([count], device=context.device), to)
    large, answer = _bytes(context, count), _bytes(context, 1)

    def there_and_back() -> None:
        dist.send(large, to)
        dist.recv(answer, to)

    return _seconds(context, there_and_back)


def _answer_link(context: RankContext, before: int) -> None:
    count = torch.tensor([0], device=context.device)
    answer = _bytes(context, 1)
    dist.recv(count, before)
    while count.item():  # 0 ends the exchange
        dist.recv(_bytes(context, int(count.item())), before)
        dist.send(answer, before)
        dist.recv(count, before)


def judge_network(reports: Reports, limits: Limits) -> Iterator[Finding]:
    """Find links that are slow against others of their kind or the limits, and a slow all-reduce."""
    kinds: dict[bool, list[int]] = {}
    for rank, facts in sorted(reports.items()):
        target = reports.get(facts["to"])
        kinds.setdefault(target is not None and target["host"] == facts["host"], []).append(rank)
    for ranks in kinds.values():
        latency, bandwidth = (statistics.median(reports[rank]["link"][key] for rank in ranks) for key in KEYS)
        for rank in ranks:
            yield from _judge_link(reports, rank, latency=latency, bandwidth=bandwidth, limits=limits)
    slowest = min(facts["all_reduce"]["bandwidth"] for facts in reports.values())
    if slowest < limits.min_bandwidth * 1e6:
        text = f"the all-reduce moves {_rate(slowest)}; --min_bandwidth is {limits.min_bandwidth:g} MB/s"
        yield Finding(text=text)


KEYS = ("latency", "bandwidth")


def _judge_link(reports: Reports, rank: int, *, latency: float, bandwidth: float, limits: Limits) -> Iterator[Finding]:
    facts = reports[rank]
    link, host = facts["link"], reports.get(facts["to"], {}).get("host", "?")
    where = f"the link to rank {facts['to']} ({host})"
    if link["bandwidth"] < bandwidth / SLOWER:
        yield Finding(rank=rank, text=f"{where} moves {_rate(link['bandwidth'])}; the median is {_rate(bandwidth)}")
    elif link["bandwidth"] < limits.min_bandwidth * 1e6:
        text = f"{where} moves {_rate(link['bandwidth'])}; --min_bandwidth is {limits.min_bandwidth:g} MB/s"
        yield Finding(rank=rank, text=text)
    if link["latency"] > SLOWER * latency + FLOOR:
        yield Finding(rank=rank, text=f"{where} takes {_delay(link['latency'])}; the median is {_delay(latency)}")
    elif link["latency"] > limits.max_latency / 1e3:
        text = f"{where} takes {_delay(link['latency'])}; --max_latency is {limits.max_latency:g} ms"
        yield Finding(rank=rank, text=text)


def show_network(reports: Reports) -> str:
    """Latency and bandwidth of all-reduce and links, lowest to highest."""
    parts = []
    for name, key in (("all-reduce", "all_reduce"), ("links", "link")):
        latency = span([facts[key]["latency"] for facts in reports.values()], _delay)
        bandwidth = span([facts[key]["bandwidth"] for facts in reports.values()], _rate)
        parts.append(f"{name}: {latency}, {bandwidth}")
    return "; ".join(parts)


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e6:.3g} MB/s" if bytes_per_second < 1e9 else f"{bytes_per_second / 1e9:.3g} GB/s"


def _delay(seconds: float) -> str:
    return f"{seconds * 1e3:.2g} ms" if seconds < 0.1 else f"{seconds * 1e3:.0f} ms"


NETWORK = Check(name="network", measure=network, judge=judge_network, show=show_network)
