"""The algorithm of cached_ds in plain PyTorch: one training step on one document, exact, in memory for one window.

The package does the same for batches of documents, every supported family and every engine. This file imports nothing
of it; tests/parity/test_algorithm.py compares the gradients of the two.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def gradient_cached_step(model: nn.Module, ids: Tensor, labels: Tensor, *, window: int, seed: int) -> Tensor:
    """Add the gradients of a whole document to `.grad`; returns the loss.

    `ids` [L] is `<s> content </s>`, `labels` [1, T]; H and its gradient G are [L, D].
    Source: CachED, arXiv 2501.01805, section 3.
    """
    # 1. Cut. Every window is `<s> slice </s>`; of the repeated ends, only the first
    #    window's <s> and the last window's </s> are kept.
    start, slices, end = ids[:1], ids[1:-1].split(window - 2), ids[-1:]
    windows = [torch.cat([start, part, end]).unsqueeze(0) for part in slices]
    last = len(windows) - 1
    kept = [slice(int(i > 0), len(part) + 1 + int(i == last)) for i, part in enumerate(slices)]

    def encode(i: int) -> Tensor:
        """Kept states of window i; its dropout has a random stream that can run again."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + i)
            states = model.get_encoder()(input_ids=windows[i]).last_hidden_state
        return states[0, kept[i]]

    # 2. Encode window by window without a graph: of the encoder, only H is kept.
    with torch.no_grad():
        states = torch.cat([encode(i) for i in range(len(windows))])

    # 3. The decoder attends to all of H. Backward gives its own gradients, and G.
    states.requires_grad_()
    loss = model(encoder_outputs=(states.unsqueeze(0),), labels=labels).loss
    loss.backward()

    # 4. Encode again, with a graph and the same random stream; add up what G brings.
    parameters = [p for p in model.get_encoder().parameters() if p.requires_grad]
    sums = [torch.zeros_like(p) for p in parameters]
    sizes = [part.stop - part.start for part in kept]
    for i, of_states in enumerate(states.grad.split(sizes)):
        found = torch.autograd.grad(encode(i), parameters, of_states, allow_unused=True)
        for total, gradient in zip(sums, found, strict=True):
            total += 0 if gradient is None else gradient

    # 5. Hand each sum over once: an engine reduces it once, whatever the windows.
    for p, total in zip(parameters, sums, strict=True):
        p.grad = total if p.grad is None else p.grad + total
    return loss.detach()
