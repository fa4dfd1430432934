"""Random streams of cross-attention are entered only where something draws: entering one costs more than a kernel."""

from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model

from cached_ds import attach
from cached_ds.decoder.replay_by_tile import AttentionCall
from helpers import tiny


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_streams_are_entered_only_where_something_draws(dropout, lora, monkeypatch):
    seen, stream = [], AttentionCall.stream
    monkeypatch.setattr(
        AttentionCall, "stream", lambda call, number, *, draws: seen.append(draws) or stream(call, number, draws=draws)
    )
    model = tiny.make_model("bart", dropout=dropout)
    if lora:
        model = get_peft_model(model, LoraConfig(target_modules=["k_proj", "v_proj"], lora_dropout=0.5))
    attach(model, window=tiny.WINDOW)(**tiny.make_batch("bart", (40,))).loss.backward()
    of_layer = [lora, dropout > 0]  # projections, kernel
    assert seen == 2 * 2 * of_layer, "of one tile in two layers, in forward and in backward"
