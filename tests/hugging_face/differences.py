"""In what an attached model is not Hugging Face's: every kind of failed test that the documentation foresees.

A kind is recognized by the last lines of a test's traceback, and names the words of the page that tells users of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One difference.

    Attributes:
        title: the difference in words, a line of the table.
        pattern: regular expression over the traceback of a test that meets it; `.` is any character.
        page: the page that tells users of it.
        words: how that page calls it.
    """

    title: str
    pattern: str
    page: str
    words: str


KINDS = (
    Kind(
        "encoder attentions and hidden states are None",
        r"(encoder_attention|encoder_hidden_states|hidden_states_output|len\(attentions\)|encoder_global_attentions).*"
        r"(None is not an instance of|'NoneType' object is not subscriptable|object of type 'NoneType' has no len|"
        r"unexpectedly None)",
        "docs/troubleshooting.md",
        "`encoder_attentions` and `encoder_hidden_states` are None",
    ),
    Kind(
        "`inputs_embeds` is refused",
        r"ValueError: a windowed encoder takes input_ids \[B, L\] and no inputs_embeds",
        "docs/troubleshooting.md",
        "a windowed encoder takes input_ids [B, L] and no ...",
    ),
    Kind(
        "logits are None in training",
        r"\[\"logits\"\].*KeyError: 'logits'",
        "docs/troubleshooting.md",
        "**`output.logits` is None.**",
    ),
    Kind(
        "reentrant checkpointing is refused",
        r"RuntimeError: (cached_ds: the decoder runs without a graph inside a forward with one: reentrant|"
        r"When use_reentrant=True, torch.utils.checkpoint is incompatible with \.grad\(\))",
        "docs/troubleshooting.md",
        "**Reentrant checkpointing is refused.**",
    ),
    Kind(
        "`torch.compile(fullgraph=True)` is refused",
        r"torch._dynamo.exc.Unsupported: Skip calling `torch.compiler.disable\(\)`d function",
        "docs/troubleshooting.md",
        "**`torch.compile(model, fullgraph=True)` is refused.**",
    ),
)


def kind_of(trace: str) -> Kind | None:
    """The kind of a failed test; None if no page tells users of it."""
    return next((kind for kind in KINDS if re.search(kind.pattern, trace, flags=re.DOTALL)), None)
