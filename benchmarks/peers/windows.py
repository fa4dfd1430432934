"""Windows of framed documents of one length, for the peers: `<s> slice </s>` each, states lined up with the tokens.

Shapes: B documents, L source tokens, w window length, K kept states of a window, T target tokens, D width.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """One window: its tokens [B, w], which of its states are kept, and which rows of H they are."""

    tokens: Tensor
    kept: slice
    rows: slice


def cut(ids: Tensor, *, window: int) -> list[Window]:
    """The windows of documents [B, L]: the first keeps the state of `<s>`, the last that of `</s>`."""
    length = ids.shape[1]
    if length <= window:
        return [Window(ids, slice(0, length), slice(0, length))]
    windows = []
    for begin in range(1, length - 1, window - 2):
        end = min(begin + window - 2, length - 1)
        first, last = begin == 1, end == length - 1
        tokens = torch.cat([ids[:, :1], ids[:, begin:end], ids[:, -1:]], dim=1)
        kept = slice(0 if first else 1, end - begin + (2 if last else 1))
        windows.append(Window(tokens, kept, slice(begin - first, end + last)))
    return windows


def encode(model: Any, window: Window) -> Tensor:
    """Kept states [B, K, D] of one window."""
    return model.get_encoder()(input_ids=window.tokens).last_hidden_state[:, window.kept]


def groups(windows: list[Window], *, together: int) -> list[list[Window]]:
    """The windows in their order, up to `together` of the same width in a group."""
    found: list[list[Window]] = []
    for _, equal in itertools.groupby(windows, key=lambda each: each.tokens.shape[1]):
        rows = list(equal)
        found += [rows[begin : begin + together] for begin in range(0, len(rows), together)]
    return found


def encode_group(model: Any, windows: list[Window]) -> list[Tensor]:
    """Kept states [B, K, D] of each of some windows, folded into the batch of one encoder call."""
    hidden = model.get_encoder()(input_ids=torch.cat([each.tokens for each in windows])).last_hidden_state
    parts = hidden.unflatten(0, (len(windows), -1))
    return [states[:, each.kept] for states, each in zip(parts, windows, strict=True)]


def encode_all(model: Any, windows: list[Window], *, together: int) -> Tensor:
    """H [B, L, D] with the graphs of all windows, `together` windows at once."""
    some = groups(windows, together=together)
    return torch.cat([kept for group in some for kept in encode_group(model, group)], dim=1)


@torch.no_grad()
def encode_without_graph(model: Any, windows: list[Window], ids: Tensor, *, together: int = 1) -> Tensor:
    """H [B, L, D] of documents [B, L], filled in place, `together` windows at once: a leaf that takes a gradient."""
    states = torch.empty(*ids.shape, model.config.d_model, dtype=model.dtype, device=ids.device)
    for group in groups(windows, together=together):
        for each, kept in zip(group, encode_group(model, group), strict=True):
            states[:, each.rows] = kept
    return states.requires_grad_()


def decode(model: Any, states: Tensor, labels: Tensor) -> Tensor:
    """The loss of a decoder that attends to all of H [B, L, D]."""
    return model(encoder_outputs=(states,), labels=labels).loss
