"""Windows of one framed document, for the peers: `<s> slice </s>` each, states lined up with the tokens.

Shapes: L source tokens, w window length, K kept states of a window, T target tokens, D width.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """One window: its tokens [1, w], which of its states are kept, and which rows of H they are."""

    tokens: Tensor
    kept: slice
    rows: slice


def cut(ids: Tensor, *, window: int) -> list[Window]:
    """The windows of a document [1, L]: the first keeps the state of `<s>`, the last that of `</s>`."""
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
    """Kept states [K, D] of one window."""
    return model.get_encoder()(input_ids=window.tokens).last_hidden_state[0, window.kept]


def groups(windows: list[Window], *, together: int) -> list[list[Window]]:
    """The windows in their order, up to `together` of the same width in a group."""
    found: list[list[Window]] = []
    for _, equal in itertools.groupby(windows, key=lambda each: each.tokens.shape[1]):
        rows = list(equal)
        found += [rows[begin : begin + together] for begin in range(0, len(rows), together)]
    return found


def encode_group(model: Any, windows: list[Window]) -> list[Tensor]:
    """Kept states [K, D] of each of some windows, folded into the batch of one encoder call."""
    hidden = model.get_encoder()(input_ids=torch.cat([each.tokens for each in windows])).last_hidden_state
    return [rows[each.kept] for rows, each in zip(hidden, windows, strict=True)]


def encode_all(model: Any, windows: list[Window], *, together: int) -> Tensor:
    """H [1, L, D] with the graphs of all windows, `together` windows at once."""
    states = [kept for some in groups(windows, together=together) for kept in encode_group(model, some)]
    return torch.cat(states)[None]


def decode(model: Any, states: Tensor, labels: Tensor) -> Tensor:
    """The loss of a decoder that attends to all of H [1, L, D]."""
    return model(encoder_outputs=(states,), labels=labels).loss
