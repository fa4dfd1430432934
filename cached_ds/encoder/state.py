"""State: what `attach` leaves on a model's encoder, decoder and encoder layers, as their attribute `_cached_ds`.

It has four kinds, each in a class of its own: settings of the model (config, family), decisions that hold for all
batches (`Budget`), the model call under way (`ModelCall`), and counters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from cached_ds.document_parallel.shares import Share
from cached_ds.models.families import Family
from cached_ds.planning.budget import Budget
from cached_ds.replay.window_batch import WindowBatch
from cached_ds.settings.config import CachedConfig
from cached_ds.windows.cut import Window

# Arguments of the model that are the encoder's alone: what of a document is repeated, and where windows begin.
LENGTHS = ("prefix_lengths", "segment_lengths")


def given_lengths(arguments: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Those of `LENGTHS` that are among the keyword arguments of a call, and not None."""
    return {name: value for name in LENGTHS if (value := arguments.get(name)) is not None}


@dataclass
class ModelCall:
    """One call of the model (or of the encoder alone); each call begins a new one.

    Attributes:
        lengths: those of `LENGTHS` that were given to the model, [B] and [B, S]; the encoder takes them.
        keep_projections: whether cross-attention is to keep keys and values: the encoder decides, the decoder reads it.
        learns: whether the model has anything trainable; anchors alone would let a frozen one seem to train.
        windows: that the encoder has cut the documents into, in order.
        last_window: the last one that a pass has begun to read, from 1; 0: none yet.
        share: of the windows that this rank encodes, and has the states of; None: all.
        window_batch: what the encoder's layers replay, under the layer schedule and while the encoder runs.
    """

    lengths: Mapping[str, Tensor] = field(default_factory=dict)
    keep_projections: bool = False
    learns: bool = True
    windows: list[Window] = field(default_factory=list)
    last_window: int = 0
    share: Share | None = None
    window_batch: WindowBatch | None = None

    def take_lengths(self) -> Mapping[str, Tensor]:
        """Return the lengths and forget them: another call of the encoder has others."""
        lengths, self.lengths = self.lengths, {}
        return lengths


@dataclass
class Counters:
    """Counts since `attach`, for progress bars, tests and benchmarks.

    Attributes:
        tokens_read: source tokens of the documents, or of this rank's shares.
        windows_read: windows that they were cut into.
        encoder_forwards: passes through the encoder, first and repeated ones.
    """

    tokens_read: int = 0
    windows_read: int = 0
    encoder_forwards: int = 0


@dataclass
class AttachedState:
    """What encoder and decoder share, and under the layer schedule the encoder's layers.

    Attributes:
        config: how to cut and replay.
        family: the architecture's names and shapes.
        budget: what was measured and decided once.
        accepts_loss_kwargs: what the model itself said to transformers' Trainer before `attach`, if it said anything.
        call: the model call under way, or the last one.
        counters: of documents read, since `attach`.
    """

    config: CachedConfig
    family: Family
    budget: Budget
    accepts_loss_kwargs: bool | None = None
    call: ModelCall = field(default_factory=ModelCall)
    counters: Counters = field(default_factory=Counters)

    def count_pass(self, last_window: int) -> None:
        """A pass begins, whose last window has this number, from 1, among those of the batch."""
        self.counters.encoder_forwards += 1
        self.call.last_window = last_window
