"""Attention mass: how much of the decoder's attention goes to each window of a document, without a weight being stored.

Attention over tiles knows the log-sum-exp of every tile's scores. The softmax over all tokens gives a tile the share
exp(lse of the tile - lse of all), which is the softmax over the tiles' log-sum-exps. With tiles that end where windows
end, the shares of a window's tiles add up to its mass.

Flow: `WeighedDocuments` stands in the place of H. Its placeholder goes to the model as the encoder's output, and the
decoder's pre-hook lets it pass (cross_attention.py):

    documents = WeighedDocuments(states, runs, windows=spans, tile=None)
    model(encoder_outputs=(documents.placeholder(),), decoder_input_ids=summary, use_cache=False)
    documents.masses()

Memory: N T numbers a layer, and H T a tile of the layer under way; the weights would be H T L in every layer.
Shapes: one document, L source length, N windows, T target length, D width, H heads, d head width.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cached_ds.decoder.cross_cache import Projections, attend_to
from cached_ds.decoder.document_states import DocumentStates, with_rows
from cached_ds.windows.cut import Document


class WeighedDocuments(DocumentStates):
    """H of one document, whose windows are weighed by the layers that attend to them."""

    def __init__(
        self, states: Tensor, runs: Sequence[Document], *, windows: Sequence[range], tile: int | None = None
    ) -> None:
        """Take H; nothing learns from it.

        Args:
            states: [1, L, D].
            runs: where H holds tokens that may be attended to.
            windows: the positions of each window's states, in order.
            tile: tokens of a tile, at most; None: by kernel and device.
        """
        assert len(states) == 1, "one document"
        super().__init__(states, _cut_at(runs, windows), tile=tile, learns=False)
        self._starts = [window.start for window in windows]
        self._of_layers: list[Tensor] = []  # [N, T] each

    def attend(self, q: Tensor, layer: Projections) -> Tensor:
        """Attention of queries [1, H, T, d] to the document; the result has the same shape."""
        kernel, sums = layer.kernel(q), []

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Any]:
            found = kernel.forward(q, k, v)
            sums.append(found[1])
            return found

        tiles = self.tiles_for(q, kernel)
        output, _ = attend_to(q, forward, with_rows(tiles, self.states, q.device), layer.project)
        shares = torch.cat(sums).softmax(0).mean(1)  # [tiles, H, T] becomes [tiles, T]
        numbers = torch.tensor([bisect_right(self._starts, tile.span.start) - 1 for tile in tiles], device=q.device)
        self._of_layers.append(shares.new_zeros(len(self._starts), q.shape[2]).index_add_(0, numbers, shares))
        return output.to(q.dtype)

    def masses(self) -> Tensor:
        """The share [T, N] of each window in the attention of each query: the mean over heads and layers."""
        return torch.stack(self._of_layers).mean(0).T


def _cut_at(runs: Sequence[Document], windows: Sequence[range]) -> list[Document]:
    """The parts of the runs that lie in one window each."""
    parts = [(max(run.start, w.start), min(run.start + run.length, w.stop)) for w in windows for run in runs]
    return [Document(0, start, stop - start) for start, stop in parts if start < stop]
