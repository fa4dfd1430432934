"""The FLOP model: how many multiply-adds (counted as 2) a training step of a document takes, by kind of step.

A backward of a matmul is two matmuls. Fused attention computes the scores again in its backward: 5 matmuls instead of 4
(torch's flop counter counts alike). Element-wise work, embeddings and LED's banded attention are not in the model.

Shapes: L source tokens, T target tokens, d width, w window length.
"""

from __future__ import annotations

from dataclasses import dataclass

from subjects.shape import Shape

# Of each part of a step: forwards (the first, and those computed again) and whether a backward follows.
FORWARDS = {  # encoder, decoder without cross-attention's K and V, K and V and scores over the document
    "truncation": (1, 1, 1),
    "full": (1, 1, 1),
    "checkpointing": (2, 2, 2),
    "published": (2, 1, 1),
    "two_phase": (2, 1, 1),
    "cached": (2, 1, 2),
    "kept graphs": (1, 1, 2),
}


@dataclass(frozen=True)
class Work:
    """FLOPs of one forward: of linear layers, and of attention's two matmuls."""

    linear: float = 0.0
    attention: float = 0.0

    def step(self, forwards: float, *, fused: bool) -> float:
        """FLOPs of so many forwards (on average over the windows) and one backward."""
        return self.linear * (forwards + 2) + self.attention * (forwards + (2.5 if fused else 2))


def encoder(shape: Shape, length: int) -> Work:
    """All windows of a document through the encoder."""
    linear = attention = 0.0
    for width, count in shape.window_widths(length).items():
        linear += count * width * _layer(shape)
        attention += count * 4 * width * width * shape.width
    return Work(linear * shape.encoder_layers, attention * shape.encoder_layers)


def decoder(shape: Shape) -> Work:
    """The decoder's T tokens, without what grows with the document; with the projection onto the vocabulary."""
    layer = shape.target * (_layer(shape) + 4 * shape.width**2)  # self-attention, feed-forward; q and o of the cross
    attention = 4 * shape.target**2 * shape.width
    vocabulary = 2 * shape.target * shape.width * shape.vocabulary
    return Work(layer * shape.decoder_layers + vocabulary, attention * shape.decoder_layers)


def cross_attention(shape: Shape, length: int) -> Work:
    """What the decoder does for every token of the document: K and V, scores and their values."""
    linear = 4 * length * shape.width**2 * shape.decoder_layers
    return Work(linear, 4 * shape.target * length * shape.width * shape.decoder_layers)


def step(shape: Shape, length: int, kind: str, *, fused: bool = True, kept: int = 0) -> float:
    """FLOPs of one training step; `kind` is a key of FORWARDS; `kept` windows are not encoded again."""
    length = min(length, shape.window) if kind == "truncation" else length
    again = 1 - kept_share(shape, length, kept)
    parts = (encoder(shape, length), decoder(shape), cross_attention(shape, length))
    first, *others = FORWARDS[kind]
    forwards = (1 + (first - 1) * again, *others)
    return sum(part.step(count, fused=fused) for part, count in zip(parts, forwards, strict=True))


def tokens_of_decoder(shape: Shape, length: int, kind: str) -> float:
    """Tokens of a document of this length whose FLOPs are those of the step that do not grow with the document."""
    fixed = decoder(shape).step(FORWARDS[kind][1], fused=True)
    return fixed * length / (step(shape, length, kind) - fixed)


def kept_share(shape: Shape, length: int, kept: int) -> float:
    """Share of a document's windows that `kept` full ones are."""
    windows = sum(shape.window_widths(length).values())
    return min(kept, windows) / windows


def _layer(shape: Shape) -> float:
    """FLOPs per token of a layer's q, k, v, o and of its feed-forward."""
    return 8 * shape.width**2 + 4 * shape.width * shape.feed_forward
