"""Sizes: the width and depth of models without pretrained weights, and how the configs of transformers spell them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """Width and depth; encoder and decoder are alike."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    dropout: float = 0.1


SIZES = {
    "tiny": Size(width=128, layers=2, heads=4, feed_forward=512, dropout=0.0),
    "small": Size(width=512, layers=6, heads=8, feed_forward=2048),
    "base": Size(width=768, layers=6, heads=12, feed_forward=3072),
    "large": Size(width=1024, layers=12, heads=16, feed_forward=4096),
    "xlarge": Size(width=2048, layers=24, heads=32, feed_forward=8192),
}


def bart_fields(size: Size, positions: int) -> dict[str, Any]:
    """Fields of `BartConfig` and its kin.

    Weights have a standard deviation of 1 / sqrt(width), since narrow models hardly begin to learn with 0.02.
    """
    sides = ("encoder", "decoder")
    return {
        "d_model": size.width,
        "init_std": size.width**-0.5,
        "dropout": size.dropout,
        "max_position_embeddings": positions,
        **{f"{side}_layers": size.layers for side in sides},
        **{f"{side}_attention_heads": size.heads for side in sides},
        **{f"{side}_ffn_dim": size.feed_forward for side in sides},
    }


def led_fields(size: Size, positions: int) -> dict[str, Any]:
    """Fields of `LEDConfig`; its attention window is a quarter of the positions."""
    own = {"max_encoder_position_embeddings": positions, "max_decoder_position_embeddings": positions}
    return bart_fields(size, positions) | own | {"attention_window": 2 * max(positions // 8, 1)}


def t5_fields(size: Size, _: int) -> dict[str, Any]:
    """Fields of `T5Config`; its positions are relative."""
    return {
        "d_model": size.width,
        "num_layers": size.layers,
        "num_decoder_layers": size.layers,
        "num_heads": size.heads,
        "d_kv": size.width // size.heads,
        "d_ff": size.feed_forward,
        "dropout_rate": size.dropout,
    }
