"""Sharing: what the ranks of a document group find for a batch, and what one process finds."""

from __future__ import annotations

import torch
import torch.distributed as dist

from cached_ds import attach
from helpers import oracle, tiny
from helpers.compare import gradients, largest, worst_error


def batch_of(lengths, family="bart"):
    """Documents of these lengths; every rank of a group gets the same."""
    return tiny.make_batch(family, lengths, seed=3)


def found(family, lengths, *, ranks, dropout=0.0, dtype=torch.float64, change=None, **fields):
    """Loss and gradients, averaged over the ranks as an engine does, of one forward and backward."""
    model = tiny.make_model(family, dropout=dropout, dtype=dtype)
    if change is not None:
        change(model)
    attach(model, window=tiny.WINDOW, document_parallel=ranks, **{**tiny.recipe(family), **fields})
    torch.manual_seed(7 + (dist.get_rank() if ranks > 1 else 0))  # the first rank's generator is the one that counts
    loss = model(**batch_of(lengths, family)).loss
    loss.backward()
    for parameter in model.parameters():
        if ranks > 1 and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
    return loss.item(), gradients(model), int(torch.randint(2**40, ()))


def gap(this, other):
    """Worst relative error of loss and gradients."""
    return largest([worst_error(this[1], other[1]), abs(this[0] / other[0] - 1)])


def against_oracle(family, lengths, *, ranks, dropout=0.0, dtype=torch.float64, **fields):
    """Worst relative error of what the group finds, against full backpropagation."""
    shared = found(family, lengths, ranks=ranks, dropout=dropout, dtype=dtype, **fields)
    model = tiny.make_model(family, dropout=dropout, dtype=dtype)
    torch.manual_seed(7)
    options = {"window": tiny.WINDOW, "random": dropout > 0, "tile": fields.get("tile", 1024)}
    loss = oracle.loss(model, batch_of(lengths, family), **options)
    loss.backward()
    return gap(shared, (loss.item(), gradients(model)))


def summaries(family, lengths, *, ranks, cross_cache, **options):
    """What `generate` writes about the documents in float64, as a list."""
    model = tiny.make_model(family, dtype=torch.float64).eval()
    fields = {"window": tiny.WINDOW, "cross_cache": cross_cache, **tiny.recipe(family)}
    attach(model, document_parallel=ranks, **fields)
    batch = batch_of(lengths, family)
    torch.manual_seed(5 + (dist.get_rank() if ranks > 1 else 0))
    write = {"max_new_tokens": 8, "min_new_tokens": 4, "do_sample": False, **options}
    return model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **write).tolist()
