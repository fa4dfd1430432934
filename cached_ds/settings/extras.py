"""Optional libraries: a missing one is reported in one sentence, with the command that installs it.

`pip install cached_ds` brings only what `attach` and `cached_ds.fsdp` import. The other libraries belong to extras of
pyproject.toml, and are imported inside `needed_by`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# The extra that installs a library, by the name under which it is imported.
EXTRA_OF = {
    "deepspeed": "deepspeed",
    "pydantic": "deepspeed",
    "datasets": "train",
    "pyarrow": "train",
    "rouge_score": "train",
    "mpi4py": "mpi",
    "matplotlib": "plots",
    "nltk": "train",
    "bert_score": "bertscore",
    "pypdf": "documents",
    "inscriptis": "documents",
}


class MissingExtra(ImportError):
    """A library of an extra is not installed; the message is one sentence for the user."""

    def __init__(self, library: str, *, user: str) -> None:
        """Name the library, the part of cached_ds that needs it (`user`), and the command."""
        command = f"pip install 'cached_ds[{EXTRA_OF[library]}]'"
        super().__init__(f"{user} needs {library}, which is not installed: {command}", name=library)


@contextmanager
def needed_by(user: str) -> Iterator[None]:
    """Turn the failed import of an optional library into `MissingExtra`; any other failed import passes through.

    Args:
        user: the subject of the sentence, such as the importing module's `__name__`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name not in EXTRA_OF:
            raise
        raise MissingExtra(error.name, user=user) from error
