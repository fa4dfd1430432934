"""The published order of a gradient-caching step, with its known faults to choose from: what cached_ds must beat.

Two phases: encode the windows without a graph, let the decoder's backward find G at the encoder's output, then encode
each window again and send its rows of G through it. Without a fault this is exact for one document; every fault below
is one of the published code, written anew here from its description.

benchmarks/peers/ has two steps of the same order, and stays apart on purpose: those are mended and as lean as plain
PyTorch allows, to be measured, but know neither faults nor dropout. This one is made of the oracle's windows and random
streams, so that a fault is all that sets it apart from the oracle.
"""

from __future__ import annotations

import torch

from helpers import oracle

FAULTS = (
    "other-dropout",  # the second encoding draws new dropout
    "last-state",  # the slice of a window's gradient ends one state early
    "zeroed",  # the encoder's gradients are zeroed after the decoder's backward, the tied embedding's with them
    "ragged-window",  # a last, ragged window is always there: empty after a document of exactly k windows
)


def step(model, batches, *, window, random=False, fault=None):
    """Leave the gradients of the mean loss of some micro-batches (of one document each) on the model."""
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        head, tail = oracle.FRAMES[model.config.model_type]
        windows = oracle.windows_of_batch(mask, window=window, head=head, tail=tail)
        if fault == "ragged-window":
            windows = with_ragged_end(windows, ids.shape[1], window=window, head=head, tail=tail)
        seed = int(torch.randint(2**62, ())) if random else None
        with torch.no_grad():
            states = torch.cat([encode(model, ids, each, seed, number) for number, each in enumerate(windows)])
        states = states[None].requires_grad_()
        loss = oracle.decode(model, states, mask, random=random, labels=batch["labels"])
        (loss / len(batches)).backward()
        if fault == "zeroed":
            model.get_encoder().zero_grad()
        second = torch.randint(2**62, ()).item() if fault == "other-dropout" else seed
        encode_again(model, ids, windows, second, states.grad[0], drop_last=fault == "last-state")


def encode_again(model, ids, windows, seed, gradient, *, drop_last):
    at = 0
    for number, each in enumerate(windows):
        states = encode(model, ids, each, seed, number)
        rows = gradient[at : at + len(states)].clone()
        at += len(states)
        if drop_last:
            rows[-1] = 0
        states.backward(rows)


def encode(model, ids, window, seed, number):
    """Kept states [K, D] of one window."""
    _, read, kept = window
    hidden = oracle.encode_group(model, ids, torch.ones_like(ids), [window], None if seed is None else seed + number)
    return hidden[0, [read.index(token) for token in kept]]


def with_ragged_end(windows, length, *, window, head, tail):
    """Full windows, then whatever is left; if nothing is left, an empty window holds the last special tokens."""
    if (length - head - tail) % (window - head - tail):
        return windows
    row, read, kept = windows[-1]
    end = list(range(length - tail, length))
    return [*windows[:-1], (row, read, kept[: len(kept) - tail]), (row, [*range(head), *end], end)]
