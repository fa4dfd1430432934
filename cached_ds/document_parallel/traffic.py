"""Traffic: what the ranks of a document group send each other in a training step, whatever the document's length.

    each forward          one all-gather of a digest and the generators      5 KB of each rank
    each decoder layer    one all-gather of outputs and log-sum-exps         B T (D + H) numbers of each rank
    each decoder layer    one all-reduce of the queries' gradients, backward B T D numbers

Counted at the process group it is the same (`make document`, and a test beside it). What the engine sends is not in it.

Shapes: P ranks, B documents, T target length, D width, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass

LOCKSTEP = 5072  # bytes: the CPU's generator and a digest; that of a GPU is 16 bytes more


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Of one micro-step of a group. Layers that are checkpointed gather once more than is counted here.

    Attributes:
        layers: of the decoder.
        target: tokens of a target, T.
        width: of the decoder, D.
        heads: of a cross-attention, H.
        documents: of a batch, B.
        itemsize: bytes of a number; narrow models send float32.
    """

    layers: int
    target: int
    width: int
    heads: int
    documents: int = 1
    itemsize: int = 4

    @property
    def collectives(self) -> int:
        """Their number."""
        return 1 + 2 * self.layers

    def sent(self, ranks: int) -> float:
        """Bytes that each of P ranks sends, and as many that it receives, if all collectives run as rings."""
        rows = self.layers * self.documents * self.target * self.itemsize
        gathered = LOCKSTEP + rows * (self.width + self.heads)
        return (ranks - 1) * gathered + 2 * (ranks - 1) / ranks * rows * self.width
