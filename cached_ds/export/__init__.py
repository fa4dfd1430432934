"""Export: a checkpoint of a run, under any engine, becomes a plain Hugging Face folder.

`export` checks the folder, and writes beside its target until all is there; `weights` reads the tensors from what each
engine leaves; `model_card` says in README.md what the model was trained on, how, and with what results.
"""

from __future__ import annotations

from cached_ds.export.export import Exported, export

__all__ = ["Exported", "export"]
