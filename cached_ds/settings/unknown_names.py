"""Unknown names: a message with the nearest known name or, where none is near, the known ones if they are few."""

from __future__ import annotations

import difflib
from collections.abc import Collection

MOST = 40  # names that are listed: more would bury the sentence


# What libraries raise for values that they do not check in a sentence of their own.
CARELESS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name most like `name`; None where none is similar."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return close[0] if close else None


def unknown(name: object, known: Collection[str], *, kind: str) -> str:
    """The message for an unknown `kind` ("field", "key") called `name`."""
    match = nearest(str(name), known)
    listed = ", ".join(sorted(known)) if len(known) <= MOST else f"{len(known)} others, none of them like it"
    hint = f"did you mean {match!r}?" if match else f"known are {listed}"
    return f"unknown {kind} {str(name)!r}: {hint}"
