"""Shapes: configurations for models without pretrained weights, by names such as `tiny-bart` or `xlarge-t5`.

For quick starts, tests and benchmarks; pretrained models come by `--model_name_or_path`.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from cached_ds.models.families import FAMILIES
from cached_ds.settings.unknown_names import unknown


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
SHAPES = tuple(f"{size}-{family}" for size in SIZES for family in FAMILIES)


def is_shape(name: str) -> bool:
    """Whether `name` is meant as a shape (a size, a dash, a word)."""
    return name.split("-")[0] in SIZES


def family_name(name: str) -> str:
    """The family of a shape.

    Raises:
        ValueError: no such shape; the message names the nearest.
    """
    if name not in SHAPES:
        raise ValueError(unknown(name, SHAPES, kind="built-in shape"))
    return name.split("-", 1)[1]


def make_config(name: str, tokenizer: PreTrainedTokenizerBase, *, positions: int) -> PretrainedConfig:
    """The config of a shape for a tokenizer; its encoder and decoder know `positions` positions.

    Raises:
        ValueError: no such shape.
    """
    family = family_name(name)
    size = SIZES[name.split("-")[0]]
    sizes = _t5_sizes(size) if family in ("t5", "mt5") else _bart_sizes(size, positions)
    if family == "led":
        sizes |= {"max_encoder_position_embeddings": positions, "max_decoder_position_embeddings": positions}
        sizes |= {"attention_window": 2 * max(positions // 8, 1)}
    return AutoConfig.for_model(family, vocab_size=len(tokenizer), **sizes, **_special_tokens(family, tokenizer))


def _bart_sizes(size: Size, positions: int) -> dict[str, float]:
    """Sizes; weights of standard deviation 1 / sqrt(width), since narrow models hardly begin to learn with 0.02."""
    ends = ("encoder", "decoder")
    return {
        "d_model": size.width,
        "init_std": size.width**-0.5,
        "dropout": size.dropout,
        "max_position_embeddings": positions,
        **{f"{end}_layers": size.layers for end in ends},
        **{f"{end}_attention_heads": size.heads for end in ends},
        **{f"{end}_ffn_dim": size.feed_forward for end in ends},
    }


def _t5_sizes(size: Size) -> dict[str, float]:
    return {
        "d_model": size.width,
        "num_layers": size.layers,
        "num_decoder_layers": size.layers,
        "num_heads": size.heads,
        "d_kv": size.width // size.heads,
        "d_ff": size.feed_forward,
        "dropout_rate": size.dropout,
    }


def _special_tokens(family: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """Ids of the special tokens; BART and LED begin to decode with EOS, the others with PAD (as their authors do)."""
    start = tokenizer.eos_token_id if family in ("bart", "mbart", "led") else tokenizer.pad_token_id
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {name: getattr(tokenizer, name) for name in names} | {"decoder_start_token_id": start}
