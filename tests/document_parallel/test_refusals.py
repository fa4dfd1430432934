"""What ranks that share documents refuse, each with one sentence, on all ranks, so that none waits for another."""

from __future__ import annotations

import pytest

from cached_ds import CachedConfig, attach
from helpers import sharing, tiny

CALLS = {
    "states": ({"change": sharing.with_own_states}, "encoder_outputs are refused with document_parallel=2"),
    "cache": ({"change": sharing.with_cache}, "use_cache and output_attentions are refused with document_parallel=2"),
    "writing": ({"change": sharing.written, "training": True}, "generate in training mode is refused with"),
    "documents": ({"own_documents": True}, "document_parallel=2: the ranks of a document group were given different"),
    "divisor": ({"ranks": 3}, "document_parallel=3 is refused; allowed is a divisor of the number of ranks, 2"),
}


@pytest.mark.parametrize(("options", "sentence"), CALLS.values(), ids=CALLS)
def test_all_ranks_refuse(ranks, options, sentence):
    assert all(found.startswith(sentence) for found in ranks.run(sharing.refusal, **options))


def test_one_process_refuses():
    with pytest.raises(ValueError, match="document_parallel=2 is refused; allowed is 1 where torch.distributed is not"):
        attach(tiny.make_model("bart"), window=tiny.WINDOW, document_parallel=2)


@pytest.mark.parametrize("fields", [{"sampled_windows": 2}, {"stream_cross_attention": False}], ids=str)
def test_what_needs_the_whole_document_is_refused(fields):
    (name, value), *_ = fields.items()
    with pytest.raises(ValueError, match=f"{name}={value} is refused with document_parallel=2; allowed is"):
        CachedConfig(document_parallel=2, **fields)
