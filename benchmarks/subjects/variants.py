"""The variants that are compared: the peers, and cached_ds with its settings. Names are those of tables and flags."""

from __future__ import annotations

from typing import Any

PEERS = ("truncation", "full", "checkpointing", "published", "two_phase", "led")
TOGETHER = 4  # windows at once, for cached_ds and for the peers that can; what "auto" chooses changes with every noise
CACHED: dict[str, dict[str, Any]] = {
    "cached": {"windows_per_pass": TOGETHER, "recompute": "all"},
    "cached_auto": {"windows_per_pass": TOGETHER, "recompute": "auto"},
    "cached_disk": {"windows_per_pass": TOGETHER, "recompute": "all", "offload": "disk"},
}
MANY: dict[str, dict[str, Any]] = dict.fromkeys(("full", "checkpointing"), {"together": TOGETHER})
ONE_WINDOW = {"windows_per_pass": 1}
NAMES = (*PEERS, *CACHED)
TITLES = {
    "truncation": "truncation to one window (floor)",
    "full": "full backpropagation",
    "checkpointing": "full, HF gradient checkpointing",
    "published": "published CachED order",
    "two_phase": "plain two-phase caching",
    "led": "LED, HF gradient checkpointing",
    "cached": "**cached_ds**",
    "cached_auto": '**cached_ds**, `recompute="auto"`',
    "cached_disk": '**cached_ds**, `offload="disk"`',
}
FLOP_KINDS = {name: name for name in PEERS if name != "led"} | {
    "cached": "cached", "cached_auto": "kept graphs", "cached_disk": "cached",
}  # fmt: skip


def fields_of(variant: str, overrides: dict[str, Any], *, frugal: bool) -> dict[str, Any]:
    """The settings of a variant: for time several windows at once, for memory (`frugal`) one."""
    if variant not in CACHED:
        return {} if frugal else MANY.get(variant, {})
    return CACHED[variant] | (ONE_WINDOW if frugal else {}) | overrides


def plain(title: str) -> str:
    """A title without markup, for plots."""
    return title.replace("*", "").replace("`", "")


def plain_title(name: str) -> str:
    """A variant's title without markup."""
    return plain(TITLES[name])
