"""`pysource`: real text that every machine has, the Python source files of the standard library and installed packages.

A document is a source file without its docstrings, its summary the first paragraph of the module's docstring. Files,
order and splits depend only on what is installed: the order is that of a hash of the path, so that the first k
documents of a split are a fair sample of it, and the same hash deals 90, 5 and 5 of 100 documents to train, validation
and test. Summaries are unique, so no test summary is in the training split.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict, Features, NamedSplit, Value
from datasets.fingerprint import Hasher

from cached_ds.data.sources.docstrings import first_paragraph, leading_docstring, remove_docstrings

SCOPES = ("all", "stdlib")
DOCUMENT_CHARACTERS = range(3_000, 400_001)
SUMMARY_CHARACTERS = range(20, 601)
SPLIT_PERCENT = {"train": 90, "validation": 5, "test": 5}
_SKIPPED_FOLDERS = {
    "__pycache__",
    "_vendor",
    "cached_ds",
    "dist-packages",
    "idle_test",
    "site-packages",
    "test",
    "testing",
    "tests",
}
_LEGAL_WORDS = ("copyright", "license", "licence")
_RULES_VERSION = 1


@dataclass(frozen=True, order=True, kw_only=True)
class SourceFile:
    """A file that makes a document; `digest`, a hash of its path below the library's root, orders and splits files."""

    digest: str
    root: str
    path: str
    summary: str
    size: int

    @property
    def split(self) -> str:
        """The split that the digest deals the file to."""
        share = int(self.digest, 16) % 100
        if share < SPLIT_PERCENT["train"]:
            return "train"
        return "validation" if share < SPLIT_PERCENT["train"] + SPLIT_PERCENT["validation"] else "test"


def load_pysource(config_name: str | None = None) -> DatasetDict:
    """Build the data set, or take it from the cache if the same files are installed.

    Args:
        config_name: "all" (the default): the standard library and installed packages; "stdlib": the former only.

    Raises:
        ValueError: another `config_name`.
    """
    files = find_sources(library_roots(config_name or "all"))
    return DatasetDict(
        {split: _build([file for file in files if file.split == split], split=split) for split in SPLIT_PERCENT}
    )


def library_roots(scope: str) -> list[Path]:
    """The folders of a scope: where this Python keeps its standard library and, for "all", its packages.

    Raises:
        ValueError: an unknown scope.
    """
    if scope not in SCOPES:
        raise ValueError(f"dataset_config_name={scope!r}: pysource has the configurations {', '.join(SCOPES)}")
    names = ("stdlib",) if scope == "stdlib" else ("stdlib", "purelib", "platlib")
    return [Path(path) for path in dict.fromkeys(sysconfig.get_path(name) for name in names)]


def find_sources(roots: Iterable[Path]) -> list[SourceFile]:
    """All files below the roots that make a document, in their stable order, each summary once."""
    unique: dict[str, SourceFile] = {}
    for file in sorted(file for root in roots for file in _scan(root)):
        unique.setdefault(file.summary, file)
    return list(unique.values())


def _scan(root: Path) -> Iterator[SourceFile]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        for name in names:
            path = Path(folder, name)
            if path.suffix == ".py" and path.stat().st_size >= DOCUMENT_CHARACTERS.start:
                yield from _candidate(root, path)


def _candidate(root: Path, path: Path) -> Iterator[SourceFile]:
    """Yield the file if its docstring makes a summary, which is found without parsing the file."""
    source = _read(path)
    docstring = None if source is None else leading_docstring(source)
    summary = first_paragraph(docstring or "")
    if len(summary) in SUMMARY_CHARACTERS and not any(word in summary.lower() for word in _LEGAL_WORDS):
        relative = path.relative_to(root).as_posix()
        digest = hashlib.blake2b(relative.encode(), digest_size=8).hexdigest()
        yield SourceFile(digest=digest, root=str(root), path=relative, summary=summary, size=path.stat().st_size)


def _read(path: Path) -> str | None:
    r"""The text with line ends `\n`; None if it is not UTF-8, or not text at all."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _build(files: Sequence[SourceFile], *, split: str) -> Dataset:
    return Dataset.from_generator(
        _documents,
        features=Features({"text": Value("string"), "summary": Value("string")}),
        gen_kwargs={"files": files},
        split=NamedSplit(split),
        fingerprint=Hasher.hash((_RULES_VERSION, split, files)),
        writer_batch_size=64,
    )


def _documents(files: Sequence[SourceFile]) -> Iterator[dict[str, str]]:
    for file in files:
        source = _read(Path(file.root, file.path))
        text = None if source is None else remove_docstrings(source)
        if text is not None and len(text) in DOCUMENT_CHARACTERS:
            yield {"text": text.strip() + "\n", "summary": file.summary}
