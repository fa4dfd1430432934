"""What to say about an unknown name: the nearest known one, or the list of what is known."""

from __future__ import annotations

import difflib
from collections.abc import Collection


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the known name most like `name`, or None where none is similar."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return close[0] if close else None


def unknown(name: object, known: Collection[str], *, kind: str) -> str:
    """Return the sentence for an unknown `kind` ("field", "key") called `name`."""
    match = nearest(str(name), known)
    hint = f"did you mean {match!r}?" if match else f"known are {', '.join(sorted(known))}"
    return f"unknown {kind} {str(name)!r}: {hint}"
