"""Agreement: whether all ranks stated the same facts (provenance/facts.py), and which differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

NAMED = 8  # words in one list


def difference(facts_of: Sequence[Mapping[str, str]], hosts: Sequence[str]) -> str | None:
    """One sentence on the first fact that is not the same on all ranks; None if there is none.

    Args:
        facts_of: facts by name, for every rank.
        hosts: the host of every rank.
    """
    names = list(dict.fromkeys(name for stated in facts_of for name in stated))
    different = [name for name in names if len({stated.get(name) for stated in facts_of}) > 1]
    if not different:
        return None
    name = different[0]
    ranks_of: dict[str | None, list[int]] = {}
    for rank, stated in enumerate(facts_of):
        ranks_of.setdefault(stated.get(name), []).append(rank)
    sides = [
        f"{'not there' if value is None else repr(value)} on {named_ranks(ranks, hosts)}"
        for value, ranks in ranks_of.items()
    ]
    others = f"; {len(different) - 1} more differ" if len(different) > 1 else ""
    return f"the ranks differ: {name} is {', '.join(sides)}{others}"


def named_ranks(ranks: Iterable[int], hosts: Sequence[str] | Mapping[int, str]) -> str:
    """The first few ranks with their hosts, and the number of the others."""
    return shortened(f"rank {rank} (host {hosts[rank]})" for rank in ranks)


def shortened(words: Iterable[str]) -> str:
    """The first few words and the number of the others."""
    words = list(words)
    others = [f"{len(words) - NAMED} more"] if len(words) > NAMED else []
    return ", ".join([*words[:NAMED], *others])
