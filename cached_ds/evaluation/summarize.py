"""Summarize: whole text files by a trained model, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from cached_ds.attachment import attach


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
        inputs = tokenizer(text, return_tensors="pt", truncation=False).to(model.device)
        tokens = model.generate(input_ids=inputs["input_ids"], num_beams=num_beams, max_length=max_target_length)
        yield path, str(tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()


def _read(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    return text
