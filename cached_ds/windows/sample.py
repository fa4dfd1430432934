"""Sample: the windows through which backward runs, where it need not run through all (`CachedConfig.sampled_windows`).

The gradient of the encoder is a sum over its N windows. The same sum over K of them, drawn without replacement and with
equal chances, weighted by N / K, has it as its expectation; the decoder, which reads the states of all windows, learns
exactly. So a step costs N forward passes through the encoder, and K forward and backward passes more.

Source: SpaCO (arXiv 2505.16710), which does so with the chunks of decoder-only models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cached_ds.windows.cut import Window


@dataclass(frozen=True)
class Sample:
    """The windows of a batch, parted.

    Attributes:
        learning: those through which backward runs, in their order.
        others: the rest, in their order.
    """

    learning: Sequence[Window]
    others: Sequence[Window]

    @property
    def weight(self) -> float:
        """Of the learning windows' gradients."""
        return (len(self.learning) + len(self.others)) / len(self.learning) if self.others else 1.0


def draw(windows: Sequence[Window], count: int | None) -> Sample:
    """Draw `count` windows, by torch's CPU generator; None, or not more windows than that: all learn."""
    if count is None or len(windows) <= count:
        return Sample(windows, [])
    chosen = set(torch.randperm(len(windows))[:count].tolist())
    parted: tuple[list[Window], list[Window]] = ([], [])
    for number, window in enumerate(windows):
        parted[number not in chosen].append(window)
    return Sample(*parted)
