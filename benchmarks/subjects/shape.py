"""The model and the documents of the benchmarks: BART-base or LED-base with random weights, one framed document.

Shapes: L source tokens, T target tokens, w window length; batch 1, float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, LEDConfig, LEDForConditionalGeneration
from transformers import PreTrainedModel as Model

PAD, BOS, EOS, FIRST_WORD = 1, 0, 2, 4
BART_LARGE = {"width": 1024, "heads": 16, "feed_forward": 4096, "encoder_layers": 12, "decoder_layers": 12}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the model, of its windows and of the target; the defaults are BART-base's."""

    vocabulary: int = 50265
    width: int = 768
    encoder_layers: int = 6
    decoder_layers: int = 6
    heads: int = 12
    feed_forward: int = 3072
    window: int = 1024
    target: int = 128
    dropout: float = 0.0
    attention_dropout: float = 0.0
    seed: int = 0

    def window_widths(self, length: int) -> dict[int, int]:
        """How many windows of which width a framed document of `length` tokens is cut into."""
        if length <= self.window:
            return {length: 1}
        full, rest = divmod(length - 2, self.window - 2)
        return {self.window: full} | ({rest + 2: 1} if rest else {})

    def length_of(self, windows: int) -> int:
        """The length of a document of exactly so many windows."""
        return windows * (self.window - 2) + 2


def make_model(shape: Shape, *, length: int, led: bool = False) -> Model:
    """A model in training mode with seeded random weights; LED's knows `length` positions."""
    torch.manual_seed(shape.seed)
    if not led:
        return BartForConditionalGeneration(BartConfig(**_sizes(shape), max_position_embeddings=shape.window)).train()
    positions = math.ceil(max(length, 2 * shape.window) / shape.window) * shape.window
    config = LEDConfig(
        **_sizes(shape),
        attention_window=shape.window,
        max_encoder_position_embeddings=positions,
        max_decoder_position_embeddings=shape.window,
    )
    return LEDForConditionalGeneration(config).train()


def make_batch(shape: Shape, *, length: int) -> dict[str, Tensor]:
    """One document `<s> words </s>` of `length` tokens, and its labels."""
    generator = torch.Generator().manual_seed(shape.seed)
    ids = torch.randint(FIRST_WORD, shape.vocabulary, (1, length), generator=generator)
    ids[0, 0], ids[0, -1] = BOS, EOS
    labels = torch.randint(FIRST_WORD, shape.vocabulary, (1, shape.target), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _sizes(shape: Shape) -> dict[str, Any]:
    ends = ("encoder", "decoder")
    return {
        "vocab_size": shape.vocabulary,
        "d_model": shape.width,
        "encoder_layers": shape.encoder_layers,
        "decoder_layers": shape.decoder_layers,
        **{f"{end}_attention_heads": shape.heads for end in ends},
        **{f"{end}_ffn_dim": shape.feed_forward for end in ends},
        "dropout": shape.dropout,
        "attention_dropout": shape.attention_dropout,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "decoder_start_token_id": EOS,
        "use_cache": False,  # nothing is generated
    }
