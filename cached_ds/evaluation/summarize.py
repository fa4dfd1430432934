"""Summarize: whole documents by a trained model, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList

from cached_ds.attachment import attach, windowed_encoder
from cached_ds.evaluation.attribution.reading import Reading
from cached_ds.evaluation.document_files import TextDocument
from cached_ds.models.families import decoder_positions, usual_reading
from cached_ds.models.hub import check_source
from cached_ds.models.token_ids import document_ids, ids_of
from cached_ds.provenance.record import recorded_reading

if TYPE_CHECKING:
    from cached_ds.evaluation.attribution.attribute import Attribution

PREFIXES = ("source_prefix", "own_prefixes")  # what is recorded of a run's prefixes, beside fields of `CachedConfig`


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A summary and what it depends on; the fields are those of `cached-ds summarize --json`.

    Attributes:
        document: the name of the document.
        summary: its text.
        tokens: of the document.
        windows: that these were cut into.
        model: folder or hub name.
        window, overlap, frame_windows, global_first_token: as in `CachedConfig`.
        source_prefix: text that every window begins with.
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
    overlap: int
    frame_windows: bool
    global_first_token: bool | None
    source_prefix: str | None
    num_beams: int
    max_new_tokens: int
    attribution: Attribution | None = None


@torch.no_grad()
def summarize(
    model_name: str,
    documents: Sequence[TextDocument],
    *,
    window: int | None = None,
    source_prefix: str | None = None,
    num_beams: int | None = None,
    max_new_tokens: int = 128,
    cross_cache: str = "kv",
    attribute: Callable[..., Attribution] | None = None,
) -> Iterator[Summary]:
    """Yield each document's summary; a bar on stderr counts windows and then tokens.

    Args:
        model_name: a folder, or a hub name.
        documents: as `read_documents` gives them.
        window: tokens per window; None: as in training if the model's run.json says it, else 1024 or all positions.
        source_prefix: of documents without one of their own: text that every window begins with; None: as in training.
        num_beams: None: the model's own.
        max_new_tokens: of a summary.
        cross_cache: as in `CachedConfig`.
        attribute: says where the sentences come from, as `attribution.attribute` does; None: nobody asks.

    Raises:
        ValueError, OSError: no such model; a window, a length or a document without a prefix that is not for it.
    """
    given = {"cross_cache": cross_cache} | ({} if window is None else {"window": window})
    told = recorded_reading(Path(model_name)) | given
    prefixes = _prefixes(documents, told, source_prefix)
    model, tokenizer = _loaded(model_name, told, max_new_tokens=max_new_tokens)
    how = {"num_beams": num_beams or model.generation_config.num_beams or 1, "max_new_tokens": max_new_tokens}
    used: dict[str, Any] = {"model": model_name, **windowed_encoder(model)._cached_ds.config.reading, **how}
    for document, prefix in zip(documents, prefixes, strict=True):
        reading, found = _generated(model, tokenizer, document, prefix, **how)
        yield Summary(
            document=document.name,
            summary=str(tokenizer.decode(found[0], skip_special_tokens=True)).strip(),
            attribution=attribute(reading, found, tokenizer=tokenizer) if attribute else None,
            **used | {"source_prefix": prefix, "tokens": reading.ids.shape[1], "windows": len(reading.windows)},
        )


def _loaded(model_name: str, told: Mapping[str, Any], *, max_new_tokens: int) -> tuple[Any, Any]:
    """The model, attached to read as it is told or else as usual, ready to write, and its tokenizer."""
    check_source(model_name, flag="model")
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(model_name)
    _check_length(model, max_new_tokens)
    fields = {name: value for name, value in told.items() if name not in PREFIXES}
    attach(model, **usual_reading(model.config) | fields).eval()
    model.to(torch.accelerator.current_accelerator() or "cpu")
    model.generation_config.max_length = None  # transformers would warn that there are two limits
    return model, tokenizer


def _check_length(model: Any, max_new_tokens: int) -> None:
    positions = decoder_positions(model.config)
    if positions is not None and max_new_tokens > positions:
        raise ValueError(
            f"max_new_tokens={max_new_tokens} is refused; allowed is at most {positions}, the decoder's positions"
        )


def _prefixes(documents: Sequence[TextDocument], told: Mapping[str, Any], given: str | None) -> list[str | None]:
    """The prefix of each document; one that has none of its own takes the common one, given or as in training."""
    common, needed = (told.get(name) for name in PREFIXES)
    common = common if given is None else given
    prefixes = [common if document.prefix is None else document.prefix for document in documents]
    if needed and None in prefixes:
        raise ValueError(
            f"{documents[prefixes.index(None)].name}: in training each document had a prefix of its own, such as a "
            "query; give --source_prefix (may be empty) or, for JSON Lines, --prefix_column"
        )
    return prefixes


def _generated(
    model: Any, tokenizer: Any, document: TextDocument, prefix: str | None, **how: Any
) -> tuple[Reading, torch.Tensor]:
    """A document as it was read, and the tokens [1, 1 + T] of its summary."""
    own = ids_of(tokenizer, [prefix])[0] if prefix else []
    ids = torch.tensor([document_ids(tokenizer, document.text, prefix=own)], device=model.device)
    lengths = {"prefix_lengths": torch.tensor([len(own)])} if prefix else {}
    with _watched(model, document.name, how["max_new_tokens"]) as criteria:
        reading = Reading.of(model, ids, **lengths)
        return reading, model.generate(
            input_ids=ids, encoder_outputs=reading.outputs, stopping_criteria=criteria, **how
        )


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
