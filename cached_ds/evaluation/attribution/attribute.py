"""Attribute: the record of one summary, with the windows that each sentence looked at while it was written.

A sentence's share of a window is the mean over its tokens, of the cross-attention's mean over layers and heads. Since
attention is no proof, a claim can be checked by occlusion: the sentence is scored again without its first window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cached_ds.evaluation.attribution.reading import Reading
from cached_ds.evaluation.attribution.sentences import sentences_of

TOP = 5  # windows of a sentence that are named, and whose text is kept


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One sentence of a summary.

    Attributes:
        text: as it was written.
        tokens: their number.
        shares: of the attention, one for each window.
        top: the numbers of the windows with the largest shares, from 0, the largest first.
        drop: how much log-likelihood the sentence loses without the first of these; None if that was not asked for,
            or where the document has one window only.
    """

    text: str
    tokens: int
    shares: list[float]
    top: list[int]
    drop: float | None


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Where the sentences of one summary come from.

    Attributes:
        spans: the first token of each window's part of the document, and the one after its last.
        texts: of the windows that are a `top` of some sentence, by their numbers.
        sentences: of the summary.
    """

    spans: list[tuple[int, int]]
    texts: dict[int, str]
    sentences: list[Sentence]


@torch.no_grad()
def attribute(
    reading: Reading, summary: Tensor, *, tokenizer: PreTrainedTokenizerBase, occlusion: bool = False
) -> Attribution:
    """Attribute the sentences of a summary to the windows of its document.

    Args:
        reading: of the document.
        summary: [1, 1 + T], as `generate` gives it.
        tokenizer: decodes document and summary.
        occlusion: whether to score the sentences without their first windows: a pass of the decoder for each of these.
    """
    masses, scores = reading.weigh(summary)
    parts = sentences_of(tokenizer, summary[0, 1:].tolist())
    shares = [masses[positions].mean(0) for _, positions in parts]
    tops = [share.topk(min(TOP, len(share))).indices.tolist() for share in shares]
    hidden = {top[0] for top in tops} if occlusion and len(reading.windows) > 1 else set()
    losses = {window: scores - reading.scores_without(window, summary) for window in hidden}
    sentences = [
        Sentence(
            text=text,
            tokens=len(positions),
            shares=[round(value, 5) for value in share.tolist()],
            top=top,
            drop=round(losses[top[0]][positions].sum().item(), 3) if hidden else None,
        )
        for (text, positions), share, top in zip(parts, shares, tops, strict=True)
    ]
    spans = [(window.start, window.stop) for window in reading.windows]
    return Attribution(spans=spans, texts=_texts(reading, tops, tokenizer), sentences=sentences)


def _texts(reading: Reading, tops: list[list[int]], tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The texts of the windows that are named, by their numbers."""
    ids = reading.ids[0].tolist()
    numbers = sorted({number for top in tops for number in top})
    parts = [ids[reading.windows[number].start : reading.windows[number].stop] for number in numbers]
    texts = [str(tokenizer.decode(part, skip_special_tokens=True)).strip() for part in parts]
    return dict(zip(numbers, texts, strict=True))
