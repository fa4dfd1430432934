"""Families: the model architectures that can be attached, each a few lines of data.

A family says how its tokenizer frames a document (so that every window can be framed alike), how many positions its
encoder knows, and what else its encoder wants to be told. Everything else is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_outputs import BaseModelOutput, ModelOutput
from transformers.models.led.modeling_led import LEDEncoderBaseModelOutput

from cached_ds.settings.config import CachedConfig

ANY = "any"  # a special token whose id the model's config does not name: a language code


@dataclass(frozen=True)
class Frame:
    """Special tokens around a document: names of ids in the config (`bos`, `eos`), or ANY."""

    head: tuple[str, ...]
    tail: tuple[str, ...]

    def fits(self, tokens: Sequence[int], config: PretrainedConfig) -> bool:
        """Whether a document's token ids begin and end like this frame."""
        pattern = [*zip(self.head, tokens, strict=False), *zip(self.tail, tokens[-len(self.tail) :], strict=False)]
        return all(name == ANY or token == getattr(config, f"{name}_token_id") for name, token in pattern)

    def __str__(self) -> str:
        """The frame as a person would write it."""
        return " ".join([*(f"<{name}>" for name in self.head), "...", *(f"<{name}>" for name in self.tail)])


def _first_token_global(global_attention_mask: Tensor) -> Tensor:
    """Longformer's recipe in every window: its first token attends to, and is seen by, all of it; [N, w] in and out."""
    mask = global_attention_mask.clone()
    mask[:, 0] = 1
    return mask


def _any_window(_: PretrainedConfig) -> int:
    return 1


def _attention_window(config: PretrainedConfig) -> int:
    return max(config.attention_window)


@dataclass(frozen=True)
class CrossAttention:
    """What a decoder layer calls its attention to the document, and what that calls its parts.

    Attributes:
        path: its place in the decoder layer.
        query: its projections; likewise `key`, `value`, `output`.
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
    """How an encoder calls its layers.

    Attributes:
        results: length of the tuple that a layer returns; None: just the states.
        position_bias: whether the first layer makes a position bias that the encoder hands to the others.
        own_mask: whether the encoder makes masks [N, w] for its layers; else they are those of transformers.
    """

    results: int | None = None
    position_bias: bool = False
    own_mask: bool = False


@dataclass(frozen=True)
class Family:
    """What cached_ds has to know of one architecture.

    Attributes:
        frames: how its tokenizers frame a document, tried in this order.
        positions: the config's name of the number of positions the encoder knows; None: relative, no limit.
        window_multiple: what the window must be a multiple of.
        global_attention: what the encoder's `global_attention_mask` is in a pass, from the caller's values [N, w]
            (zeros without any); None: the encoder has no such input.
        output: the class its decoder expects from the encoder.
        layers: name of the encoder's and the decoder's list of layers.
        encoder_layer: how the encoder calls them.
        cross_attention: the names of its attention to the document.
    """

    frames: tuple[Frame, ...]
    positions: str | None = "max_position_embeddings"
    window_multiple: Callable[[PretrainedConfig], int] = _any_window
    global_attention: Callable[[Tensor], Tensor] | None = None
    output: type[ModelOutput] = BaseModelOutput
    layers: str = "layers"
    encoder_layer: EncoderLayer = EncoderLayer()
    cross_attention: CrossAttention = CrossAttention()


_BOS_EOS = (Frame(("bos",), ("eos",)),)
_EOS = (Frame((), ("eos",)),)
_T5 = Family(
    _EOS,
    positions=None,
    layers="block",
    encoder_layer=EncoderLayer(results=3, position_bias=True),
    cross_attention=CrossAttention("layer.1.EncDecAttention", "q", "k", "v", "o", "key_value_proj_dim", results=3),
)

FAMILIES: dict[str, Family] = {
    "bart": Family(_BOS_EOS),
    "mbart": Family((Frame((), ("eos", ANY)), Frame((ANY,), ("eos",)))),  # mBART-25, then mBART-50
    "pegasus": Family(_EOS),
    "t5": _T5,
    "mt5": _T5,
    "led": Family(
        _BOS_EOS,
        positions="max_encoder_position_embeddings",
        window_multiple=_attention_window,
        global_attention=_first_token_global,
        output=LEDEncoderBaseModelOutput,
        encoder_layer=EncoderLayer(results=1, own_mask=True),
        cross_attention=CrossAttention(results=3),
    ),
}


def family_of(config: PretrainedConfig) -> Family:
    """The family of a model's config.

    Raises:
        ValueError: it is not supported; the message lists the supported ones.
    """
    if config.model_type not in FAMILIES:
        raise ValueError(f"model_type={config.model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[config.model_type]


def check_window(family: Family, model_config: PretrainedConfig, config: CachedConfig) -> None:
    """Refuse windows that the encoder cannot read, or that leave no room for content.

    Raises:
        ValueError: more tokens than positions; not a multiple of LED's attention window; all frame and overlap.
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
    frame = max(len(frame.head) + len(frame.tail) for frame in family.frames) if config.frame_windows else 0
    if config.window - frame - 2 * config.overlap < 1:
        raise ValueError(
            f"window={config.window} is refused; allowed is more than {frame} special tokens and 2 x overlap="
            f"{config.overlap} together"
        )
