"""Sharing: what the ranks of a document group find for a batch, and what one process or the full graph finds.

Every function here runs on a rank. The generators of the ranks differ, since only that of a group's first rank counts.
"""

from __future__ import annotations

import copy
import pickle

import peft
import pytest
import torch
import torch.distributed as dist

from cached_ds import attach
from cached_ds.decoder import document_states
from cached_ds.encoder import windowed
from cached_ds.guards import finite
from cached_ds.guards.traces import Traces
from helpers import oracle, tiny
from helpers.compare import gradients, largest, whole_error, worst_error
from probes.collectives import Collectives

SEED = 7


def attached(family, *, ranks, dropout=0.0, dtype=torch.float64, adapters=0.0, change=None, **fields):
    """A tiny model whose documents so many ranks share; `adapters` is the dropout of LoRA on keys and values."""
    model = tiny.make_model(family, dropout=dropout, dtype=dtype)
    if change is not None:
        change(model)
    if adapters:
        torch.manual_seed(3)
        targets = {"target_modules": ["k_proj", "v_proj"], "lora_dropout": adapters, "init_lora_weights": False}
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, **targets)).to(dtype)
    fields = {"window": tiny.WINDOW, **tiny.recipe(family), **fields}
    torch.manual_seed(SEED + (dist.get_rank() if ranks > 1 else 0))
    return attach(model, document_parallel=ranks, **fields)


def batch_of(family, lengths, seed=3):
    """Documents of these lengths; every rank gets the same."""
    return tiny.make_batch(family, lengths, seed=seed)


def found(family, lengths, *, ranks, **options):
    """Loss, gradients averaged over the ranks as an engine does, and the next random number of the caller."""
    model = attached(family, ranks=ranks, **options)
    loss = model(**batch_of(family, lengths)).loss
    loss.backward()
    for parameter in model.parameters():
        if ranks > 1 and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
    return loss.item(), gradients(model), int(torch.randint(2**40, ()))


def against_oracle(family, lengths, *, dropout=0.0, **options):
    """Worst relative error of loss and gradients against full backpropagation."""
    loss, found_gradients, _ = found(family, lengths, ranks=2, dropout=dropout, **options)
    model = tiny.make_model(family, dropout=dropout, dtype=torch.float64)
    torch.manual_seed(SEED)
    settings = {"window": tiny.WINDOW, "random": dropout > 0, "tile": options.get("tile", 1024)}
    expected = oracle.loss(model, batch_of(family, lengths), **settings)
    expected.backward()
    return largest([worst_error(found_gradients, gradients(model)), abs(loss / expected.item() - 1)])


def against_one(family, lengths, **options):
    """The same error against one process, and whether the caller's generator is left in the same state."""
    loss, found_gradients, following = found(family, lengths, ranks=2, **options)
    expected, of_one, following_one = found(family, lengths, ranks=1, **options)
    error = largest([worst_error(found_gradients, of_one), abs(loss / expected - 1)])
    return error, following == following_one


def rounding(lengths):
    """Errors of bf16 gradients against those of float64: of two ranks, and of one process."""
    _, exact, _ = found("bart", lengths, ranks=1)
    errors = []
    for ranks in (2, 1):
        _, narrow, _ = found("bart", lengths, ranks=ranks, dtype=torch.bfloat16)
        errors.append(whole_error(narrow, exact))
    return errors


def skip_layers(model):
    """LayerDrop in encoder and decoder."""
    model.get_encoder().layerdrop = model.get_decoder().layerdrop = 0.4


def freeze_encoder(model):
    """Let only the decoder learn."""
    model.get_encoder().requires_grad_(False)


def checkpoint(model):
    """Run the decoder's layers again in backward, collectives included."""
    model.gradient_checkpointing_enable({"use_reentrant": False})


def bad_windows(at):
    """What this rank's trace says of the states and their gradient where the token at a position is poison."""
    model, batch, traces = attached("bart", ranks=2), batch_of("bart", (75, 30)), Traces()
    batch["input_ids"][0, at] = poison = 3  # no document has it
    model.get_encoder().embed_tokens.register_forward_hook(
        lambda _, ids, states: torch.where((ids[0] == poison).unsqueeze(-1), torch.nan, states)
    )
    traces.watch(model)
    traces.begin(batch)
    model(**batch)
    (trace,) = traces.found
    return finite.bad_windows(trace, 0, trace.states), finite.bad_windows(trace, 1, trace.states)


def of_copies(lengths):
    """Losses of a model that has read documents, of its copy and of its pickle."""
    model, batch = attached("bart", ranks=2), batch_of("bart", lengths)
    loss = model(**batch).loss
    loss.backward()
    return [each(**batch).loss.item() for each in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model)))]


def sent(lengths):
    """Collectives of a forward and backward, by kind, and their bytes."""
    model = attached("bart", ranks=2)
    with Collectives() as counter:
        model(**batch_of("bart", lengths)).loss.backward()
    return counter.found


def rows_held(lengths):
    """Numbers of states in this rank's H and G, of tokens that it counts as read, and of those of all documents."""
    model, rows = attached("bart", ranks=2), {"H": [], "G": []}
    with pytest.MonkeyPatch.context() as patch:
        for module, name, kind in ((windowed, "empty", "H"), (document_states, "empty_like", "G")):
            make = getattr(module, name)
            patch.setattr(
                module, name, lambda *args, make=make, kind=kind, **options: _noted(rows[kind], make, args, options)
            )
        model(**batch_of("bart", lengths)).loss.backward()
    return sum(rows["H"]), sum(rows["G"]), model.get_encoder()._cached_ds.counters.tokens_read, sum(lengths)


def _noted(rows, make, args, options):
    made = make(*args, **options)
    rows.append(made.numel() // tiny.WIDTH)
    return made


def summaries(family, lengths, *, ranks, cross_cache, **options):
    """What `generate` writes about the documents, as lists."""
    model, batch = attached(family, ranks=ranks, cross_cache=cross_cache).eval(), batch_of(family, lengths)
    write = {"max_new_tokens": 8, "min_new_tokens": 4, "do_sample": False, **options}
    return model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **write).tolist()


def evaluated(family, lengths, *, ranks):
    """The logits of a forward in evaluation mode, which makes no graph."""
    model = attached(family, ranks=ranks).eval()
    batch = batch_of(family, lengths)
    with torch.no_grad():
        return model(**batch).logits


def refusal(*, ranks=2, own_documents=False, training=False, change=lambda model, batch: model(**batch), **fields):
    """The sentence with which a call ends; None if it does not."""
    try:
        model = attached("bart", ranks=ranks, **fields).train(training)
        change(model, batch_of("bart", (40,), seed=dist.get_rank() if own_documents else 3))
    except ValueError as error:
        return str(error)
    return None


def with_own_states(model, batch):
    """Call with states that the encoder has not returned in this form."""
    states = model.get_encoder()(input_ids=batch["input_ids"]).last_hidden_state * 1
    model(encoder_outputs=(states,), labels=batch["labels"], attention_mask=batch["attention_mask"])


def with_cache(model, batch):
    """Ask for a cache of keys and values."""
    labels = batch.pop("labels")
    model(**batch, decoder_input_ids=labels.clamp(min=0), use_cache=True)


def written(model, batch):
    """Generate."""
    model.generate(input_ids=batch["input_ids"], max_new_tokens=3)
