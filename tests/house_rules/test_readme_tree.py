"""The README's tree of files equals the files, each with a word on what it is."""

from __future__ import annotations

import re

from helpers.repo import FOLDERS, ROOT, files_in, shown


def readme_tree(text: str) -> dict[str, str]:
    """Return path -> comment from the README's fenced block that starts with a line `cached_ds/`.

    A folder ends in a slash and stands alone or before its comment; what lies in it is indented by two more spaces; a
    comment stands at least two spaces behind its name.
    """
    block = re.search(r"^```\w*\n(cached_ds/.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert block, "README.md has no fenced block that starts with a line `cached_ds/`: the tree of files"
    entries: dict[str, str] = {}
    parents: list[str] = []
    for line in filter(str.strip, block[1].splitlines()):
        indent, name, comment = re.fullmatch(r"((?:  )*)(\S+)(?:\s{2,}(.*))?", line).groups()
        parents[len(indent) // 2 :] = [name]
        if not name.endswith("/"):
            entries["".join(parents)] = comment or ""
    return entries


def test_readme_tree_equals_the_files():
    entries = readme_tree((ROOT / "README.md").read_text(encoding="utf-8"))
    files = {shown(path) for folder in FOLDERS for path in files_in(folder)}
    missing, extra = sorted(files - entries.keys()), sorted(entries.keys() - files)
    assert not missing, f"files that the README's tree does not list: {missing}"
    assert not extra, f"listed in the README's tree, but not there: {extra}"
    silent = sorted(path for path, comment in entries.items() if not comment)
    assert not silent, f"listed in the README's tree without a comment: {silent}"


def test_readme_tree_is_read_as_written():
    text = (
        "x\n\n```\ncached_ds/\n  a.py     what a is\n  data/     the data\n    b.py  what b is\ntests/\n  c.py\n```\n"
    )
    assert readme_tree(text) == {"cached_ds/a.py": "what a is", "cached_ds/data/b.py": "what b is", "tests/c.py": ""}
