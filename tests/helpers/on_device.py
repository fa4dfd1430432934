"""On a device: how far an attached model is from full backpropagation, from kept graphs, from states that stay there.

The tests of a GPU and `make gpu` ask the same; on the CPU both are rehearsed.
"""

from __future__ import annotations

import copy
import math

import torch

from cached_ds import attach
from helpers import oracle, tiny
from helpers.compare import gradients, whole_error, worst_error

LENGTHS = (100, 37)
SEEDS = (0, 1, 2)
CPU = torch.device("cpu")
PIECES = {"window": tiny.WINDOW, "windows_per_pass": 2, "tile": 16}  # several passes, and several tiles under way
# Of the encoder's gradients: bfloat16 (8 bits) summed in another order. Other masks give 0.17 or more in every family.
AUTOCAST = 5e-2
# Attention weights in bfloat16 from the two passes of a kernel: two roundings of 2**-8, relative to the largest.
ROUNDED = 2**-6
# A float32 gradient, all tensors together: hundreds of sums in another order, 6e-8 each.
FLOAT32 = 1e-5


def moved(batch, device):
    return {name: value.to(device) for name, value in batch.items()}


def step(model, batch, *, autocast=False):
    """The gradients of one batch, from the same random numbers in every call."""
    device = next(model.parameters()).device
    torch.manual_seed(3)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        loss = model(**moved(batch, device)).loss
    loss.backward()
    return gradients(model)


def by_oracle(model, batch):
    """The gradients of full backpropagation, where the model is."""
    oracle.loss(model, moved(batch, next(model.parameters()).device), window=tiny.WINDOW).backward()
    return gradients(model)


def parity(family, dtype, device):
    """Errors of an attached model and of full backpropagation there, both against float64 on the CPU.

    In float64 the worst tensor's; in a narrower type that of all tensors together, of three models on average, since
    one error has no more digits than the type.
    """
    found = [_parity(family, dtype, device, seed) for seed in (SEEDS[:1] if dtype == torch.float64 else SEEDS)]
    ours, full = (math.hypot(*errors) / math.sqrt(len(errors)) for errors in zip(*found, strict=True))
    return {"error": ours, "of_full_backpropagation": full}


def _parity(family, dtype, device, seed):
    measure = worst_error if dtype == torch.float64 else whole_error
    model, batch = tiny.make_model(family, seed=seed, dtype=dtype), tiny.make_batch(family, LENGTHS, seed=seed)
    truth = by_oracle(copy.deepcopy(model).double(), batch)
    ours = step(attach(copy.deepcopy(model), **PIECES, **tiny.recipe(family)).to(device), batch)
    full = by_oracle(model.to(device), batch)
    return [measure(moved(each, CPU), truth) for each in (ours, full)]


def dropout_replay(family, device, *, schedule="window", autocast=False):
    """Error of the gradients when every pass runs again with dropout, against those when every graph is kept."""
    model = tiny.make_model(family, dropout=0.1, dtype=torch.float32 if autocast else torch.float64)
    fields = {**PIECES, "schedule": schedule, **tiny.recipe(family)}
    models = [attach(copy.deepcopy(model), recompute=count, **fields).to(device) for count in (0, 1000)]
    found = [step(each, tiny.make_batch(family, LENGTHS), autocast=autocast) for each in models]
    return encoder_error(*found) if autocast else worst_error(*found)


def encoder_error(found, expected):
    """Relative error of the encoder's gradients together: in those of all tensors, masks would hardly show."""
    return whole_error(*({name: each[name] for name in each if "encoder." in name} for each in (found, expected)))


def offload(place, device, *, schedule="window"):
    """Error of the gradients with states and their gradient elsewhere, in float64."""
    model, batch = tiny.make_model("bart", dtype=torch.float64), tiny.make_batch("bart", LENGTHS)
    here = step(attach(copy.deepcopy(model), **PIECES).to(device), batch)
    away = attach(model, offload=place, schedule=schedule, **PIECES).to(device)
    return worst_error(step(away, batch), here)


def kernel_replay(kernel, device, dtype, *, heads=2, targets=40, width=64):
    """How far the weights that a tile kernel drops in backward are from those of its forward.

    With the identity as values the output is the dropped weights [T, S]; with the identity as the output's gradient,
    that of the values is their transpose.
    """
    torch.manual_seed(0)
    q, k = (torch.randn(1, heads, size, width, device=device, dtype=dtype) for size in (targets, width))
    identity = torch.eye(width, device=device, dtype=dtype).expand(1, heads, -1, -1).contiguous()
    torch.manual_seed(5)
    out, lse, state = kernel.forward(q, k, identity)
    torch.manual_seed(5)
    *_, of_values = kernel.backward(identity[:, :, :targets].contiguous(), q, k, identity, out, lse, state)
    return ((of_values[..., :targets].transpose(-1, -2) - out).abs().max() / out.abs().max()).item()
