"""Tiny models of every family and documents for them, the raw material of the tests."""

from __future__ import annotations

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LEDConfig,
    LEDForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY, WIDTH, WINDOW = 48, 16, 16
LENGTHS = (75, 30, 3)  # of documents of several, of a few and of less than one window
PAD, BOS, EOS, LANGUAGE = 1, 0, 2, 5


def bart_like(dropout):
    return {
        "vocab_size": VOCABULARY, "d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "dropout": dropout, "attention_dropout": dropout, "activation_dropout": dropout,
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "decoder_start_token_id": EOS,
    }  # fmt: skip


def _t5_like(dropout):
    return {
        "vocab_size": VOCABULARY, "d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2,
        "num_heads": 2, "dropout_rate": dropout, "pad_token_id": PAD, "eos_token_id": EOS,
        "decoder_start_token_id": PAD, "relative_attention_num_buckets": 8, "tie_word_embeddings": True,
    }  # fmt: skip


def _positions(count=64):
    return {"max_position_embeddings": count}


def make_config(family, dropout):
    """The config of a tiny model."""
    bart, t5 = bart_like(dropout), _t5_like(dropout)
    led = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 4}
    return {
        "bart": lambda: BartConfig(**bart, **_positions()),
        "mbart": lambda: MBartConfig(**bart, **_positions()),
        "pegasus": lambda: PegasusConfig(**bart, **_positions()),
        "led": lambda: LEDConfig(**bart, **led),
        "t5": lambda: T5Config(**t5),
        "mt5": lambda: MT5Config(**t5),
    }[family]()


MODELS = {
    "bart": BartForConditionalGeneration,
    "mbart": MBartForConditionalGeneration,
    "pegasus": PegasusForConditionalGeneration,
    "led": LEDForConditionalGeneration,
    "t5": T5ForConditionalGeneration,
    "mt5": MT5ForConditionalGeneration,
}
FAMILIES = tuple(MODELS)


def make_model(family, *, dropout=0.0, seed=0, dtype=torch.float32):
    """A tiny model in training mode."""
    torch.manual_seed(seed)
    return randomise(MODELS[family](make_config(family, dropout))).to(dtype).train()


@torch.no_grad()
def randomise(model):
    """Make every parameter random, so that no bias hides an error by being zero."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def recipe(family):
    """Settings of `attach` under which a family trains in float64.

    LED in float64 needs a global token: Hugging Face takes the softmax in float32, where the smallest float64 is minus
    infinity, and rows that see nothing but padding have gradients of NaN.
    """
    return {"global_first_token": True} if family == "led" else {}


def frame(family, content):
    """Token ids of a document: content between the special tokens of the family's tokenizer."""
    head = [BOS] if family in ("bart", "led") else []
    tail = [EOS, LANGUAGE] if family == "mbart" else [EOS]
    return head + content + tail


def segments(contents, shares):
    """Lengths [B, S] of segments, padded with 0: these shares of each content, the last one with what is left."""
    rows = []
    for content, parts in zip(contents, shares, strict=True):
        sizes = [int(content * share) for share in parts[:-1]]
        rows.append(torch.tensor([*sizes, content - sum(sizes)] if parts else [0]))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def make_batch(family, lengths, *, target=6, seed=0, side="right"):
    """Documents of these lengths (special tokens included), padded on one side, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), PAD)
    mask = torch.zeros_like(ids)
    special = len(frame(family, []))
    for row, length in enumerate(lengths):
        content = torch.randint(6, VOCABULARY, (max(length - special, 0),), generator=generator).tolist()
        tokens = torch.tensor(frame(family, content)[-length:])
        where = slice(0, length) if side == "right" else slice(ids.shape[1] - length, None)
        ids[row, where], mask[row, where] = tokens, 1
    labels = torch.randint(6, VOCABULARY, (len(lengths), target), generator=generator)
    labels[0, -2:] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
