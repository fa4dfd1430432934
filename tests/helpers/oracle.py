"""The oracle: full backpropagation through the whole document, sharing no code with cached_ds.

It encodes every window of every document with a graph, glues the kept states together and lets the decoder attend to
all of them: the definition of what cached_ds must compute, in memory that grows with the document. Everything is
spelled out anew from the rules the package documents: how windows are cut, and that the pass whose first window has
number i runs with the generator seeded with S + i, S being one draw of the caller's generator. Likewise each call of a
cross-attention draws an S, and the attention weights of tile number i (1024 tokens of a document, documents one after
another) are dropped with the generator seeded with S + i.
"""

from __future__ import annotations

import contextlib
import functools

import torch

FRAMES = {"bart": (1, 1), "led": (1, 1), "pegasus": (0, 1), "t5": (0, 1), "mt5": (0, 1), "mbart": (0, 2)}


def windows_of_document(tokens, *, window, head, tail, overlap=0, segments=()):
    """[(indices of the tokens a window reads, indices of the tokens whose states it keeps)] of one document."""
    if segments:
        return windows_of_segments(tokens, segments, window=window, head=head, tail=tail, overlap=overlap)
    if len(tokens) <= window:
        return [(list(tokens), list(tokens))]
    front, content, back = tokens[:head], tokens[head : len(tokens) - tail], tokens[len(tokens) - tail :]
    room, out, at = window - head - tail, [], 0
    while True:
        piece = content[at : at + room]
        begins, ends = at == 0, at + room >= len(content)
        keep = (front if begins else []) + piece[
            0 if begins else overlap : len(piece) if ends else len(piece) - overlap
        ]
        out.append((front + piece + back, keep + (back if ends else [])))
        if ends:
            return out
        at += room - 2 * overlap


def windows_of_segments(tokens, segments, *, window, head, tail, overlap):
    """The same of a document in segments: each is read as a document of its own, in the frame of the whole."""
    front, content, back = tokens[:head], tokens[head : len(tokens) - tail], tokens[len(tokens) - tail :]
    assert sum(segments) == len(content)
    out = []
    for size in segments:
        own, content = front + content[:size] + back, content[size:]
        out += windows_of_document(own, window=window, head=head, tail=tail, overlap=overlap)
    kept = [[token for token in states if token not in (*front, *back)] for _, states in out]
    kept[0] = front + kept[0]
    kept[-1] = kept[-1] + back
    return [(read, states) for (read, _), states in zip(out, kept, strict=True)]


def windows_of_batch(mask, *, window, head, tail, overlap=0, prefix=None, segments=None):
    """The windows of all rows, in order: (row, token indices read, token indices kept)."""
    out = []
    for row in range(mask.shape[0]):
        real = mask[row].nonzero().flatten().tolist()
        tokens = list(range(real[0], real[-1] + 1))
        repeated = head + (0 if prefix is None else int(prefix[row]))
        parts = () if segments is None else [int(size) for size in segments[row] if size]
        pieces = windows_of_document(tokens, window=window, head=repeated, tail=tail, overlap=overlap, segments=parts)
        out += [(row, read, kept) for read, kept in pieces]
    return out


def encode_group(model, ids, real, group, stream, *, global_mask=None, global_first=None):
    """States of the windows of one pass, encoded together, padded on the right."""
    width = max(len(read) for _, read, _ in group)
    batch = ids.new_full((len(group), width), model.config.pad_token_id)
    mask = torch.zeros_like(batch)
    for number, (row, read, _) in enumerate(group):
        batch[number, : len(read)] = ids[row, read]
        mask[number, : len(read)] = real[row, read]
    extra, is_led = {}, model.config.model_type == "led"
    global_first = is_led if global_first is None else global_first
    if global_first or global_mask is not None:
        extra["global_attention_mask"] = asked = torch.zeros_like(batch)
        for number, (row, read, _) in enumerate(group):
            asked[number, : len(read)] = 0 if global_mask is None else global_mask[row, read]
        asked[:, 0] |= int(global_first)
    if stream is None:
        return model.get_encoder()(input_ids=batch, attention_mask=mask, **extra).last_hidden_state
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream)
        return model.get_encoder()(input_ids=batch, attention_mask=mask, **extra).last_hidden_state


def encode(
    model, ids, mask, *, window, overlap=0, framed=True, per_pass=1, random=False, prefix=None, segments=None, **more
):  # fmt: skip
    """States [B, L, D] of whole documents, with the graph of all windows."""
    head, tail = FRAMES[model.config.model_type] if framed else (0, 0)
    lengths = {"prefix": prefix, "segments": segments}
    windows = windows_of_batch(mask, window=window, head=head, tail=tail, overlap=overlap, **lengths)
    order = sorted(range(len(windows)), key=lambda number: len(windows[number][1]), reverse=True)
    seed = int(torch.randint(2**62, ())) if random else None
    states = {}
    while order:
        longest = len(windows[order[0]][1])
        numbers = [number for number in order[:per_pass] if 2 * len(windows[number][1]) >= longest]
        order = order[len(numbers) :]
        group = [windows[number] for number in numbers]
        hidden = encode_group(model, ids, mask, group, seed + numbers[0] if random else None, **more)
        for slot, (row, read, kept) in enumerate(group):
            states.update({(row, token): hidden[slot, read.index(token)] for token in kept})
    zero = torch.zeros_like(next(iter(states.values())))
    rows = [torch.stack([states.get((row, at), zero) for at in range(ids.shape[1])]) for row in range(ids.shape[0])]
    return torch.stack(rows)


def cross_attention(module, documents, tile, hidden_states, key_value_states, **_):
    """A decoder layer's attention to the documents, all of it at once, with the dropout of tiles."""
    t5 = hasattr(module, "q")
    query, key, value, output = (getattr(module, name) for name in ("qkvo" if t5 else NAMES))
    heads = module.n_heads if t5 else module.num_heads
    q, k, v = (
        projection(states).unflatten(-1, (heads, -1)).transpose(1, 2)
        for projection, states in ((query, hidden_states), (key, key_value_states), (value, key_value_states))
    )
    scores = (q @ k.transpose(-1, -2)) * getattr(module, "scaling", 1.0)  # T5 does not scale
    weights = scores.masked_fill(documents[:, None, None] == 0, -torch.inf).softmax(-1)
    weights = weights * dropped(weights.detach(), documents, 1 - module.dropout, tile)
    result = output((weights @ v).transpose(1, 2).flatten(2))
    return (result, None, None) if t5 or "LED" in type(module).__name__ else (result, None)


NAMES = ("q_proj", "k_proj", "v_proj", "out_proj")


def dropped(weights, mask, stay, tile):
    """1 / stay where a weight stays, 0 where it is dropped."""
    seed, number, result = int(torch.randint(2**62, ())), 0, torch.ones_like(weights)
    for row in range(mask.shape[0]):
        for tokens in mask[row].nonzero().flatten().split(tile):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + number)
                kept = torch.empty_like(weights[row : row + 1, :, :, tokens]).bernoulli_(stay)
            result[row : row + 1, :, :, tokens] = kept / stay
            number += 1
    return result


@contextlib.contextmanager
def own_cross_attention(model, mask, tile):
    """Let the decoder's layers use `cross_attention`."""
    decoder = model.get_decoder()
    modules = [
        layer.layer[1].EncDecAttention if hasattr(layer, "layer") else layer.encoder_attn
        for layer in (decoder.block if hasattr(decoder, "block") else decoder.layers)
    ]
    for module in modules:
        module.forward = functools.partial(cross_attention, module, mask, tile)
    yield
    for module in modules:
        del module.forward


def decode(model, hidden, mask, *, tile=1024, random=False, **batch):
    """The loss of a decoder over all states."""
    own = own_cross_attention(model, mask, tile) if random else contextlib.nullcontext()
    with own:
        return model(encoder_outputs=(hidden,), attention_mask=mask, **batch).loss


def loss(model, batch, *, tile=1024, random=False, **options):
    """The loss of a batch, with the graph of the whole documents."""
    batch = dict(batch)
    ids, mask = batch.pop("input_ids"), batch.pop("attention_mask")
    lengths = {"prefix": batch.pop("prefix_lengths", None), "segments": batch.pop("segment_lengths", None)}
    if (global_mask := batch.pop("global_attention_mask", None)) is not None:
        options["global_mask"] = global_mask
    hidden = encode(model, ids, mask, random=random, **lengths, **options)
    return decode(model, hidden, mask, tile=tile, random=random, **batch)
