"""Summarize: whole text files by a trained model, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from cached_ds.attachment import attach
from cached_ds.models.token_ids import document_ids


@torch.no_grad()
def summarize_files(
    model_name: str, paths: Sequence[Path], *, window: int, num_beams: int, max_target_length: int
) -> Iterator[tuple[Path, str]]:
    """Yield each file with its summary; every file is read before the model is loaded.

    Raises:
        ValueError: an empty file; a window that the model cannot read.
        OSError: a file that cannot be read, or a model that is not there.
    """
    texts = [_read(path) for path in paths]
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = attach(AutoModelForSeq2SeqLM.from_pretrained(model_name), window=window).eval()
    model.to(torch.accelerator.current_accelerator() or "cpu")
    for path, text in zip(paths, tqdm(texts, unit="document", disable=None), strict=True):
        ids = torch.tensor([document_ids(tokenizer, text)], device=model.device)
        tokens = model.generate(input_ids=ids, num_beams=num_beams, max_length=max_target_length)
        yield path, str(tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from error
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    return text
