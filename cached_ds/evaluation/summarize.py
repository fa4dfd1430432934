"""Summarize: whole documents by a trained model, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList

from cached_ds.attachment import attach
from cached_ds.evaluation.attribution.reading import Reading
from cached_ds.evaluation.document_files import TextDocument
from cached_ds.models.hub import check_source
from cached_ds.models.token_ids import document_ids

if TYPE_CHECKING:
    from cached_ds.evaluation.attribution.attribute import Attribution


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A summary and what it depends on; the fields are those of `cached-ds summarize --json`.

    Attributes:
        document: the name of the document.
        summary: its text.
        tokens: of the document.
        windows: that these were cut into.
        model: folder or hub name.
        window: tokens of a window.
        num_beams: of generation.
        max_new_tokens: of the summary.
        attribution: where its sentences come from, if that was asked for; `--json` leaves it out.
    """

    document: str
    summary: str
    tokens: int
    windows: int
    model: str
    window: int
    num_beams: int
    max_new_tokens: int
    attribution: Attribution | None = None


@torch.no_grad()
def summarize(
    model_name: str,
    documents: Sequence[TextDocument],
    *,
    window: int = 1024,
    num_beams: int | None = None,
    max_new_tokens: int = 128,
    cross_cache: str = "kv",
    attribute: Callable[..., Attribution] | None = None,
) -> Iterator[Summary]:
    """Yield each document's summary; a bar on stderr counts windows and then tokens.

    Args:
        model_name: a folder, or a hub name.
        documents: as `read_documents` gives them.
        window: tokens per window.
        num_beams: None: the model's own.
        max_new_tokens: of a summary.
        cross_cache: as in `CachedConfig`.
        attribute: says where the sentences come from, as `attribution.attribute` does; None: nobody asks.

    Raises:
        ValueError: a window that the model cannot read; a model that can be had nowhere.
        OSError: a folder without a model.
    """
    model, tokenizer = _loaded(model_name, window=window, cross_cache=cross_cache)
    how = {"num_beams": num_beams or model.generation_config.num_beams or 1, "max_new_tokens": max_new_tokens}
    used: dict[str, Any] = {"model": model_name, "window": window, **how}
    for document in documents:
        ids = torch.tensor([document_ids(tokenizer, document.text)], device=model.device)
        with _watched(model, document.name, max_new_tokens) as criteria:
            reading = Reading.of(model, ids)
            found = model.generate(input_ids=ids, encoder_outputs=reading.outputs, stopping_criteria=criteria, **how)
        yield Summary(
            document=document.name,
            summary=str(tokenizer.decode(found[0], skip_special_tokens=True)).strip(),
            attribution=attribute(reading, found, tokenizer=tokenizer) if attribute else None,
            **used | {"tokens": ids.shape[1], "windows": len(reading.windows)},
        )


def _loaded(model_name: str, *, window: int, cross_cache: str) -> tuple[Any, Any]:
    """The attached model, ready to write, and its tokenizer."""
    check_source(model_name, flag="model")
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(model_name)
    attach(model, window=window, cross_cache=cross_cache).eval()
    model.to(torch.accelerator.current_accelerator() or "cpu")
    model.generation_config.max_length = None  # transformers would warn that there are two limits
    return model, tokenizer


class _Tokens(StoppingCriteria):
    """Counts the steps of a generation; it stops none."""

    def __init__(self, name: str, most: int) -> None:
        self.name, self.most = name, most
        self.bar: Any = None

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        if self.bar is None:
            self.bar = tqdm(total=self.most, desc=self.name, unit="token", disable=None, leave=False)
        self.bar.update()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextmanager
def _watched(model: Any, name: str, most: int) -> Iterator[StoppingCriteriaList]:
    """Bars on stderr: of windows while the encoder runs, then of tokens."""
    encoder, tokens = model.get_encoder(), _Tokens(name, most)
    layer = getattr(encoder, encoder._cached_ds.family.layers)[-1]
    with tqdm(desc=name, unit="window", disable=None, leave=False) as windows:
        handle = layer.register_forward_hook(lambda _, args, __: windows.update(len(args[0])))
        try:
            yield StoppingCriteriaList([tokens])
        finally:
            handle.remove()
            if tokens.bar is not None:
                tokens.bar.close()
