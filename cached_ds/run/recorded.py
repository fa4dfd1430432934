"""What is recorded of a run (provenance/record.py): the settings that were given, and names on the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cached_ds.data.sources.load import EMBEDDED
from cached_ds.provenance.facts import MAY_DIFFER, versions
from cached_ds.run.arguments import Arguments
from cached_ds.settings.config import CachedConfig


def recorded(
    arguments: Arguments, flags: Sequence[str], *, cached: CachedConfig, own_prefixes: bool, run: str | None = None
) -> dict[str, Any]:
    """The record of a run, for its folder.

    These are `base_model` and `dataset` where they are names on the hub, `reading`, `settings`, `versions` and `run`.

    Access tokens are left out and paths cut to their last part, so that it can be handed on.

    Args:
        arguments: of the run.
        flags: as `read_flags` gives them: which of the arguments were given.
        cached: the settings of the attached model, some of which depend on its family.
        own_prefixes: whether each document has a prefix of its own.
        run: the name by which its checkpoints are known.
    """
    model, dataset = arguments.model.model_name_or_path, arguments.data.dataset_name
    given = {word.split("=")[0].removeprefix("--").replace("-", "_") for word in flags if word.startswith("--")}
    values = vars(arguments.model) | vars(arguments.data) | vars(arguments.cached) | arguments.training.to_dict()
    settings = {
        name: _without_folders(value)
        for name, value in values.items()
        if {name, f"no_{name}"} & given and name not in MAY_DIFFER and not name.endswith("token")
    }
    return {
        "base_model": model if model is not None and not Path(model).exists() else None,
        "dataset": dataset if dataset is not None and dataset not in EMBEDDED and not Path(dataset).exists() else None,
        "reading": cached.reading | {"source_prefix": arguments.data.source_prefix, "own_prefixes": own_prefixes},
        "settings": settings,
        "versions": versions(),
        "run": run,
    }


def _without_folders(value: Any) -> Any:
    is_path = isinstance(value, str) and (os.path.isabs(value) or os.path.exists(value))
    return Path(value).name if is_path else value
