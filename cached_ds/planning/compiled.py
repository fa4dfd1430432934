"""Compiled: torch.compile for the encoder's layers, where every full pass of windows has one shape.

All layers of an encoder run the same code, so compiling the layer once (with and without a graph) serves all of them.
Only passes of the one shape run compiled; the few others (at the end of a document) run as they are, so nothing is ever
compiled in mid-training. The first forward tries it on tokens of the batch. If it fails, the reason is logged once and
the encoder runs uncompiled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

BACKEND = "inductor"
REASON = 200  # characters of torch's message, which can be pages long
logger = logging.getLogger(__name__)


def try_compile(layers: Sequence[nn.Module], run: Callable[[], Tensor]) -> bool:
    """Compile the layers in place, and try `run()` without a graph, with one, and backward.

    Returns False where torch.compile fails; the layers then run uncompiled.
    """
    for layer in layers:
        layer.compile(backend=BACKEND, dynamic=False, fullgraph=True)
    try:
        with torch.no_grad():
            run()
        with torch.enable_grad():
            states = run()
        if states.requires_grad:
            torch.autograd.grad(states.sum(), [p for layer in layers for p in layer.parameters() if p.requires_grad])
    except (TorchDynamoException, RuntimeError, AssertionError) as error:  # torch's compiler fails in all these ways
        undo(layers)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:REASON]}"
        logger.warning("compile=True: the encoder runs uncompiled, because torch.compile failed with %s", reason)
        return False
    return True


def undo(layers: Sequence[nn.Module]) -> None:
    """Let the layers run uncompiled again."""
    for layer in layers:
        vars(layer).pop("_compiled_call_impl", None)


def run_compiled(yes: bool) -> AbstractContextManager[object]:
    """A context in which compiled layers run compiled (`yes`), or as they are."""
    return nullcontext() if yes else torch.compiler.set_stance("force_eager")
