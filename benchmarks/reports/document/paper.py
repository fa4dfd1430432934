"""On paper: one document on H100, from the FLOP model and the bytes that were counted; nothing of it was run.

BART-large in bfloat16, a summary of 512 tokens, one process per GPU, all of them share the document.

Memory. A GPU has 80 GB. It holds 18 bytes a parameter (weights, their float32 masters and two moments, gradients in
float32), the graph of one pass of 32,768 tokens at 34 bytes per token, layer and unit of width (Korthikanti et al.
2022, 2205.05198, with fused attention), and a tile of 65,536 tokens with its keys, values and gradients at 16 bytes per
token and unit of width. What is left is the document's: of each token its id and mask, 16 bytes, and of a rank's own
tokens H and G, 2 bytes each per unit of width.

Time. FLOPs that full backpropagation needs, at a quarter of the rate that the maker publishes: what `make gpu` promises
of a measured peak. The encoder and cross-attention are parted among the ranks, the decoder runs on each. Collectives
do not overlap with anything: those of the group (cached_ds/document_parallel/traffic.py) and one all-reduce of all
gradients in float32, at 450 GB/s by NVLink in a host of 8, else at 50 GB/s (InfiniBand, 400 Gbit/s), 20 microseconds
each.
"""

from __future__ import annotations

import functools

import torch

from cached_ds.document_parallel.traffic import Traffic
from probes import flops
from probes.device import published_rate
from reports.gpu_promises import SHARE
from reports.results import markdown, number
from subjects.shape import BART_LARGE, Shape, make_model

SHAPE = Shape(**BART_LARGE, target=512)
RANKS, HOST = (1, 8, 64), 8
BOOK = 524288  # tokens
MEMORY, PER_PARAMETER = 80e9, 18
PASS, PER_ACTIVATION = 32768, 34
TILE, PER_TILE = 65536, 16
PER_TOKEN, PER_UNIT = 16, 4  # bytes of ids and mask; of H and G
NVLINK, NETWORK, LATENCY = 450e9, 50e9, 20e-6
TRAFFIC = Traffic(layers=SHAPE.decoder_layers, target=SHAPE.target, width=SHAPE.width, heads=SHAPE.heads)
ALST = {1: "0.5M", 8: "3.7M", 64: "15M (on 32)"}  # arXiv 2506.13996: Llama-8B
HEADER = ("H100-80GB", "longest document, tokens", "its step, s", "of it communication", "512K tokens: step, s")
HEADER += ("of it communication", "MiB sent per rank: group + gradients", "ALST, 8B decoder-only: longest")


def table() -> str:
    """A line per number of GPUs."""
    return markdown(HEADER, [_line(ranks) for ranks in RANKS])


def _line(ranks: int) -> list[str]:
    length = longest(ranks)
    times = [(seconds(each, ranks), sending(ranks)) for each in (length, BOOK)]
    shown = [text for whole, sent in times for text in (f"{whole:.2f}", f"{sent / whole:.1%}")]
    mib = " + ".join(number(each / 2**20, ",.0f") for each in (TRAFFIC.sent(ranks), reduced(ranks)))
    return [str(ranks), f"{length / 1e6:,.0f}M", *shown, mib, ALST[ranks]]


@functools.cache
def parameters() -> int:
    """How many the model has."""
    with torch.device("meta"):
        return sum(p.numel() for p in make_model(SHAPE, length=SHAPE.window).parameters())


def longest(ranks: int) -> float:
    """Tokens of the longest document whose parts have room."""
    working = PER_ACTIVATION * SHAPE.encoder_layers * PASS * SHAPE.width + PER_TILE * TILE * SHAPE.width
    room = MEMORY - PER_PARAMETER * parameters() - working
    return room / (PER_TOKEN + PER_UNIT * SHAPE.width / ranks)


def seconds(length: float, ranks: int) -> float:
    """Of a step."""
    decoder = flops.decoder(SHAPE).step(1, fused=True)
    shared = flops.step(SHAPE, round(length), "full") - decoder
    rate = SHARE * (published_rate("H100") or 0)
    return (shared / ranks + decoder) / rate + sending(ranks)


def reduced(ranks: int) -> float:
    """Bytes of gradients that a rank sends."""
    return 2 * (ranks - 1) / ranks * 4 * parameters()


def sending(ranks: int) -> float:
    """Seconds that a step's collectives take; none for one rank."""
    if ranks == 1:
        return 0.0
    bandwidth = NVLINK if ranks <= HOST else NETWORK
    return (TRAFFIC.sent(ranks) + reduced(ranks)) / bandwidth + (TRAFFIC.collectives + 1) * LATENCY
