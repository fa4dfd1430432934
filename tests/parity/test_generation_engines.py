"""Generation under engines that gather parameters: every rank ends, whatever the others still write."""

from __future__ import annotations

import copy

import deepspeed
import pytest
import torch
import torch.distributed as dist

import cached_ds
from cached_ds import attach, fsdp
from helpers import engines, tiny

NEW_TOKENS = (4, 20)  # of each rank
WAYS = {"greedy": {}, "beams": {"num_beams": 3}, "sampling": {"do_sample": True}}


def by_deepspeed(model):
    return deepspeed.initialize(model=model, config=engines.ds_settings(3, 1, 1.0), model_parameters=model.parameters())


def by_zero_initialize(model):
    return cached_ds.zero.initialize(model=model, config=engines.ds_settings(3, 1, 1.0))


MAKERS = {"deepspeed.initialize": by_deepspeed, "zero.initialize": by_zero_initialize, "fsdp.shard": fsdp.shard}


def written(maker, way, family, cross_cache="kv"):
    """What this rank writes, under the engine, and alone with Hugging Face's own cross-attention."""
    model = tiny.make_model(family).eval()
    rank = dist.get_rank()
    batch = tiny.make_batch(family, ((75, 30) if rank else (9, 5)))
    count = NEW_TOKENS[rank]
    options = {"max_new_tokens": count, "min_new_tokens": count if rank else 1, "do_sample": False} | WAYS[way]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    found = []
    alone = attach(copy.deepcopy(model), window=tiny.WINDOW, stream_cross_attention=False)
    attach(model, window=tiny.WINDOW, cross_cache=cross_cache)
    MAKERS[maker](model)
    for each in (model.eval(), alone):
        torch.manual_seed(3)
        found.append(each.generate(**inputs, **options))
    return [tokens.tolist() for tokens in found]


@pytest.mark.parametrize("cross_cache", ["kv", "none"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("maker", MAKERS)
def test_ranks_that_stop_at_different_steps_all_end(zero_ranks, maker, way, cross_cache):
    for found, expected in zero_ranks.run(written, maker=maker, way=way, family="bart", cross_cache=cross_cache):
        assert found == expected


@pytest.mark.parametrize("family", ["t5", "led"])
def test_other_families(zero_ranks, family):
    for found, expected in zero_ranks.run(written, maker="zero.initialize", way="greedy", family=family):
        assert found == expected
