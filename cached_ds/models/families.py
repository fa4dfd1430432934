"""Families: the model architectures that can be attached, each one entry of `FAMILIES`.

A family says how its tokenizer frames a document (so that every window can be framed alike), how many positions its
encoder knows, what its encoder expects besides ids and mask, and what its layers are called and return. For models
without pretrained weights it also lists its special tokens and spells a size in the fields of its config. Everything
else is the same for all families.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutput, ModelOutput
from transformers.models.led.modeling_led import LEDEncoderBaseModelOutput

from cached_ds.models.sizes import Size, bart_fields, led_fields, t5_fields
from cached_ds.settings.config import CachedConfig

ANY = "any"  # a special token whose id the model's config does not name: a language code


@dataclass(frozen=True)
class FramePattern:
    """Special tokens around a document: names of ids in the config (`bos`, `eos`), or ANY."""

    head: tuple[str, ...]
    tail: tuple[str, ...]

    def fits(self, tokens: Sequence[int], config: PretrainedConfig) -> bool:
        """Whether a document's token ids begin and end like this frame."""
        last = tokens[len(tokens) - len(self.tail) :]
        pattern = [*zip(self.head, tokens, strict=False), *zip(self.tail, last, strict=False)]
        return all(name == ANY or token == getattr(config, f"{name}_token_id") for name, token in pattern)

    def template(self, special_tokens: Sequence[str]) -> str:
        """The frame around `$A`, as a tokenizer's template spells it; ANY becomes the first language code."""
        words = {"bos": "<s>", "eos": "</s>", ANY: next(iter(language_codes(special_tokens)), "")}
        return " ".join([*(words[name] for name in self.head), "$A", *(words[name] for name in self.tail)])

    def __str__(self) -> str:
        """The frame for people to read, such as `<bos> ... <eos>`."""
        return " ".join([*(f"<{name}>" for name in self.head), "...", *(f"<{name}>" for name in self.tail)])


def language_codes(special_tokens: Sequence[str]) -> list[str]:
    """The special tokens that name a language: those without angle brackets."""
    return [token for token in special_tokens if not token.startswith("<")]


def _any_window(_: PretrainedConfig) -> int:
    return 1


def _attention_window(config: PretrainedConfig) -> int:
    return max(config.attention_window)


@dataclass(frozen=True)
class CrossAttention:
    """Names in a decoder layer: its attention to the document, and the parts of that attention.

    Attributes:
        path: where the attention is in the decoder layer.
        query: its query projection; likewise `key`, `value`, `output`.
        head_width: its attribute that holds the width of a head.
        results: length of the tuple that it returns.
    """

    path: str = "encoder_attn"
    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "out_proj"
    head_width: str = "head_dim"
    results: int = 2


@dataclass(frozen=True)
class EncoderLayer:
    """What an encoder's layers take and return.

    Attributes:
        results: length of the tuple that a layer returns; None: the states alone.
        position_bias: whether the first layer makes a position bias that the encoder hands to the others.
        own_mask: whether the encoder makes its layers' masks [N, w] itself, without `create_bidirectional_mask`.
    """

    results: int | None = None
    position_bias: bool = False
    own_mask: bool = False


_BART_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_T5_TOKENS = ("<pad>", "</s>", "<unk>", "<mask>")


@dataclass(frozen=True)
class Family:
    """What cached_ds has to know of one architecture.

    Attributes:
        frames: how its tokenizers frame a document, tried in this order; a trained tokenizer has the first.
        special_tokens: of a trained tokenizer, in the order of the ids that the config class expects by default.
        decoder_start: which of them the decoder starts from, "eos" or "pad" (as the authors trained it).
        config_fields: turns a size and a number of positions into fields of its config.
        positions: the config field with the number of positions that the encoder knows; None: relative, no limit.
        window_multiple: from the config, a number that the window must be a multiple of.
        global_attention: makes the encoder's `global_attention_mask` of a pass from the caller's values [N, w] (zeros
            without any); None: the encoder has no such input.
        output: the class of encoder outputs that its decoder expects.
        layers: name of the encoder's and the decoder's list of layers.
        encoder_layer: what the encoder's layers take and return.
        cross_attention: names of the decoder's attention to the document.
    """

    frames: tuple[FramePattern, ...]
    special_tokens: tuple[str, ...] = _BART_TOKENS
    decoder_start: str = "eos"
    config_fields: Callable[[Size, int], dict[str, Any]] = bart_fields
    positions: str | None = "max_position_embeddings"
    window_multiple: Callable[[PretrainedConfig], int] = _any_window
    global_attention: bool = False
    output: type[ModelOutput] = BaseModelOutput
    layers: str = "layers"
    encoder_layer: EncoderLayer = EncoderLayer()
    cross_attention: CrossAttention = CrossAttention()


_BOS_EOS = (FramePattern(("bos",), ("eos",)),)
_EOS = (FramePattern((), ("eos",)),)
_T5 = Family(
    _EOS,
    special_tokens=_T5_TOKENS,
    decoder_start="pad",
    config_fields=t5_fields,
    positions=None,
    layers="block",
    encoder_layer=EncoderLayer(results=3, position_bias=True),
    cross_attention=CrossAttention("layer.1.EncDecAttention", "q", "k", "v", "o", "key_value_proj_dim", results=3),
)

FAMILIES: dict[str, Family] = {
    "bart": Family(_BOS_EOS),
    "mbart": Family(
        (FramePattern((), ("eos", ANY)), FramePattern((ANY,), ("eos",))),  # mBART-25, then mBART-50
        special_tokens=(*_BART_TOKENS, "en_XX"),
    ),
    "pegasus": Family(_EOS, special_tokens=_T5_TOKENS, decoder_start="pad"),
    "t5": _T5,
    "mt5": _T5,
    "led": Family(
        _BOS_EOS,
        config_fields=led_fields,
        positions="max_encoder_position_embeddings",
        window_multiple=_attention_window,
        global_attention=True,
        output=LEDEncoderBaseModelOutput,
        encoder_layer=EncoderLayer(results=1, own_mask=True),
        cross_attention=CrossAttention(results=3),
    ),
}


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model's config.

    Raises:
        ValueError: what `family_named` refuses.
    """
    return family_named(config.model_type)


def family_named(model_type: str) -> Family:
    """The family of a `model_type`, as configs spell it.

    Raises:
        ValueError: it is not supported; the message lists the supported ones.
    """
    if model_type not in FAMILIES:
        raise ValueError(f"model_type={model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def usual_reading(model_config: PretrainedConfig) -> dict[str, Any]:
    """How the commands read where nobody says it: fields of `CachedConfig`.

    The window is its default, or all positions if the encoder has fewer. LED's first token attends to all of a window,
    as in the Longformer paper.
    """
    family, window = family_of(model_config), CachedConfig().window
    if family.positions is not None:
        window = min(window, getattr(model_config, family.positions))
    return {"window": window, "global_first_token": family.global_attention or None}


def decoder_positions(model_config: PretrainedConfig) -> int | None:
    """The number of positions that the decoder knows; None: relative, no limit."""
    own = "max_decoder_position_embeddings"
    name = own if hasattr(model_config, own) else family_of(model_config).positions
    return None if name is None else getattr(model_config, name)


def check_settings(family: Family, model_config: PretrainedConfig, config: CachedConfig) -> None:
    """Refuse settings that do not fit the encoder: windows that it cannot read, or that leave no room for content.

    Raises:
        ValueError: more tokens than positions; not a multiple of LED's attention window; no room for content
            beside frame and overlap; global attention for an encoder that has none.
    """
    positions = getattr(model_config, family.positions) if family.positions else None
    if positions is not None and config.window > positions:
        raise ValueError(
            f"window={config.window} is refused; allowed is at most {positions}, the encoder's {family.positions}"
        )
    multiple = family.window_multiple(model_config)
    if config.window % multiple:
        raise ValueError(
            f"window={config.window} is refused; allowed are multiples of {multiple}, its attention_window"
        )
    if config.global_first_token and not family.global_attention:
        raise ValueError("global_first_token=True is refused: this encoder has no global attention; only LED's has")
    frame = max(len(frame.head) + len(frame.tail) for frame in family.frames) if config.frame_windows else 0
    if config.window - frame - 2 * config.overlap < 1:
        raise ValueError(
            f"window={config.window} is refused; allowed is more than {frame} special tokens and 2 x overlap="
            f"{config.overlap} together"
        )
