"""The model card of an export: what the files of the run say about data, base model, settings and results.

Nothing is made up: what no file says is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData

STATE, RESULTS = "trainer_state.json", "all_results.json"
SCORES = ("eval_", "predict_")
SPEEDS = ("_runtime", "_per_second")  # of the machine, not of the model
SOURCES = {
    "model_name_or_path": "base model",
    "config_name": "without pretrained weights, by the config",
    "dataset_name": "data set",
    "train_file": "training documents",
    "validation_file": "validation documents",
    "test_file": "test documents",
}
METRICS = ("rouge", "bertscore")  # names on the hub, which the names of our scores contain


def model_card(folder: Path, record: Mapping[str, Any], *, name: str, model: str, dtypes: Sequence[str]) -> str:
    """The text of README.md.

    Args:
        folder: of the checkpoint or the run.
        record: of the run; empty if there is none.
        name: of the model.
        model: its class, or "adapter".
        dtypes: the types of its weights.
    """
    results = _results(folder)
    settings, versions = record.get("settings", {}), record.get("versions", {})
    is_adapter = model == "adapter"
    header = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        base_model=record.get("base_model"),
        datasets=record.get("dataset"),
        metrics=[metric for metric in METRICS if any(metric in name for name in results)] or None,
        tags=["cached_ds"],
    )
    parts = [f"---\n{header.to_yaml()}\n---", f"# {name}", _introduction(model, dtypes, settings)]
    if sources := _sources(settings):
        parts.append(f"## Base model and data\n\n{sources}")
    if results:
        parts.append(f"## Results\n\n{_table(results)}")
    if settings:
        text = yaml.safe_dump(settings, sort_keys=True, allow_unicode=True).strip()
        parts.append(f"## Training\n\n{_progress(folder)}The settings that were given:\n\n```yaml\n{text}\n```")
    if versions:
        parts.append(f"## Versions\n\n{', '.join(f'{library} {version}' for library, version in versions.items())}")
    return "\n\n".join(parts) + "\n"


def _introduction(model: str, dtypes: Sequence[str], settings: Mapping[str, Any]) -> str:
    trained = f"trained with cached_ds, which learns from whole documents. Its weights are {', '.join(dtypes)}."
    if model == "adapter":
        return f"An adapter, {trained} PEFT loads it."
    window = settings.get("window")
    reading = f" It learnt to read them in windows of {window} tokens: `cached_ds.attach(model, window={window})`."
    return f"A {model}, {trained} transformers loads it.{reading if window is not None else ''}"


def _sources(settings: Mapping[str, Any]) -> str:
    """What the model was made from, a line each."""
    return "\n".join(f"- {title}: {settings[flag]}" for flag, title in SOURCES.items() if settings.get(flag))


def _results(folder: Path) -> dict[str, float]:
    """The scores of a run or, of a checkpoint, those that were measured at its step."""
    results = _read(folder / RESULTS)
    if not results:
        state = _read(folder / STATE)
        for entry in state.get("log_history", []):
            if entry.get("step") == state.get("global_step"):
                results |= entry
    return {
        name: value
        for name, value in results.items()
        if name.startswith(SCORES) and not name.endswith(SPEEDS) and isinstance(value, int | float)
    }


def _progress(folder: Path) -> str:
    state = _read(folder / STATE)
    return f"{state['global_step']} steps, {state['epoch']:.4g} epochs. " if state.get("epoch") is not None else ""


def _table(results: Mapping[str, float]) -> str:
    rows = [f"| {name} | {value:.6g} |" for name, value in sorted(results.items())]
    return "\n".join(["| metric | value |", "|---|---|", *rows])


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
