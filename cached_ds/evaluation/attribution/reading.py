"""Reading: a document as the encoder has read it, and how likely a summary is, given all of it or a part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cached_ds.decoder.attention_mass import WeighedDocuments
from cached_ds.replay.sums import sum_dtype
from cached_ds.windows.cut import whole_rows


@dataclass(frozen=True)
class Reading:
    """One document and its states, as an attached model in evaluation mode reads them.

    Shapes: L tokens, N windows, T tokens that a summary has after its start token, D width.

    Attributes:
        model: the attached model.
        ids: [1, L].
        outputs: of the encoder, with H [1, L, D].
        windows: the positions of the states that each window gave.
    """

    model: Any
    ids: Tensor
    outputs: Any
    windows: list[range]

    @classmethod
    def of(cls, model: Any, ids: Tensor, **lengths: Tensor) -> Reading:
        """Read a document [1, L], with `prefix_lengths` [1] and `segment_lengths` [1, S] if it has these.

        Where ranks gather parameters together, only a call of the whole model gathers those that its parts share.
        """
        encoder = model.get_encoder()
        if is_sharded(model):
            found = model(input_ids=ids, decoder_input_ids=ids[:, :1], use_cache=False, **lengths)
            outputs = encoder._cached_ds.family.output(last_hidden_state=found.encoder_last_hidden_state)
        else:
            outputs = encoder(input_ids=ids, **lengths)
        windows = encoder._cached_ds.call.windows
        return cls(model, ids, outputs, [range(each.start, each.start + each.last - each.first) for each in windows])

    def weigh(self, summary: Tensor) -> tuple[Tensor, Tensor]:
        """The share [T, N] of each window in the attention of each written token, and the tokens' scores [T].

        Args:
            summary: [1, 1 + T], as `generate` gives it.
        """
        state = self.model.get_encoder()._cached_ds
        runs = whole_rows(*self.ids.shape)
        documents = WeighedDocuments(self.outputs.last_hidden_state, runs, windows=self.windows, tile=state.config.tile)
        scores = self._scores(state.family.output(last_hidden_state=documents.placeholder()), summary)
        return documents.masses().cpu(), scores

    def scores_without(self, window: int, summary: Tensor) -> Tensor:
        """The scores [T] of the tokens of a summary where one window is hidden from the decoder."""
        seen = torch.ones_like(self.ids)
        hidden = self.windows[window]
        seen[:, hidden.start : hidden.stop] = 0
        return self._scores(self.outputs, summary, attention_mask=seen)

    def _scores(self, outputs: Any, summary: Tensor, **options: Tensor) -> Tensor:
        """Log-likelihoods [T], by one pass of the decoder."""
        found = self.model(encoder_outputs=outputs, decoder_input_ids=summary[:, :-1], use_cache=False, **options)
        logits = found.logits[0]
        return -F.cross_entropy(logits.to(sum_dtype(logits)), summary[0, 1:], reduction="none").cpu()


def is_sharded(model: nn.Module) -> bool:
    """Whether ranks gather the parameters of a model together."""
    return any(isinstance(each, DTensor) or hasattr(each, "ds_numel") for each in model.parameters())
