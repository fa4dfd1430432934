"""The algorithm of cached_ds in plain PyTorch: one training step on one document, exact, in memory for one window.

The package does the same for batches of documents, every supported family and every engine. This file imports nothing
of it; tests/parity/test_algorithm.py compares the gradients of the two.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import BartForConditionalGeneration


def gradient_cached_step(
    model: BartForConditionalGeneration, ids: Tensor, labels: Tensor, *, window: int, seed: int
) -> Tensor:
    """Add the gradients of a whole document to `.grad` and return the loss: CachED, arXiv 2501.01805, section 3.

    Shapes: `ids` [L] is `<s> content </s>`, `labels` [1, T]; H and G are [L, D].
    """
    # 1. Cut. Every window is `<s> slice </s>`; of the repeated ends only the first <s> and the last </s> are kept.
    start, content, end = ids[:1], ids[1:-1], ids[-1:]
    slices = content.split(window - 2)
    windows = [torch.cat([start, part, end]).unsqueeze(0) for part in slices]
    last = len(windows) - 1
    kept = [slice(int(i > 0), len(slices[i]) + 1 + int(i == last)) for i in range(len(windows))]

    def encode(i: int) -> Tensor:
        """Kept states of window i; its dropout comes from a random stream of its own, which can be run again."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + i)
            return model.get_encoder()(input_ids=windows[i]).last_hidden_state[0, kept[i]]

    # 2. Encode window by window without a graph. H is all that is kept of the encoder.
    with torch.no_grad():
        states = torch.cat([encode(i) for i in range(len(windows))])

    # 3. The decoder attends to all of H. Its backward gives its own gradients, and G = dJ/dH.
    states.requires_grad_()
    loss = model(encoder_outputs=(states.unsqueeze(0),), labels=labels).loss
    loss.backward()

    # 4. Encode again, now with a graph, with the same random stream; add up what G brings to the parameters.
    parameters = [parameter for parameter in model.get_encoder().parameters() if parameter.requires_grad]
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    sizes = [window_slice.stop - window_slice.start for window_slice in kept]
    for i, of_states in enumerate(states.grad.split(sizes)):
        found = torch.autograd.grad(encode(i), parameters, of_states, allow_unused=True)
        for total, gradient in zip(sums, found, strict=True):
            total += 0 if gradient is None else gradient

    # 5. Hand each sum over once: an engine would reduce it once, whatever the number of windows.
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.grad = total if parameter.grad is None else parameter.grad + total
    return loss.detach()
