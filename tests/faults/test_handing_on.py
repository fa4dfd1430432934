"""A run goes on under other engines and other numbers of ranks, and where ranks share documents; see `make elastic`."""

from __future__ import annotations

import json

import elastic
import pytest

from lab import workshop

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("zero_ops")]
SHARED = {"document_parallel": 2, "gradient_accumulation_steps": elastic.DOCUMENTS}  # two ranks are one reader
CHAIN = [("zero2", 2), ("zero3", 1), ("fsdp", 2), ("zero1", 2), ("ddp", 1)]


def test_a_run_is_handed_from_engine_to_engine_and_its_losses_do_not_change(tmp_path):
    folder = workshop.build(tmp_path)
    codes, output = elastic.train(folder, tmp_path / "0", CHAIN[0])
    assert codes == [0, 0], output
    for number, kind in enumerate(CHAIN[1:], 1):
        step = min(elastic.BEGIN * number, 6)
        codes, output = elastic.go_on(folder, tmp_path / f"{number - 1}", tmp_path / f"{number}", kind, step=step)
        assert not any(codes), (kind, output)
        assert elastic.difference(tmp_path / "0", tmp_path / f"{number}") < elastic.TOLERANCE, kind
    codes, output = elastic.train(
        folder, tmp_path / "0", ("zero2", 2), resume_from_checkpoint=True, gradient_accumulation_steps=1, max_steps=9
    )
    assert "was written with 4 documents per step, and this run takes 2; ranks" in output, output
    assert codes[0] not in (0, None)
    assert json.loads((tmp_path / "0/trainer_state.json").read_text())["global_step"] == elastic.STEPS


def test_ranks_begin_to_share_documents_and_cease(tmp_path):
    folder = workshop.build(tmp_path)
    codes, output = elastic.train(folder, tmp_path / "0", ("ddp", 2))
    assert codes == [0, 0], output
    for number, (kind, changes) in enumerate([(("ddp", 2), SHARED), (("ddp", 1), {})], 1):
        step = elastic.BEGIN * number
        paths = (tmp_path / f"{number - 1}", tmp_path / f"{number}")
        codes, output = elastic.go_on(folder, *paths, kind, step=step, **changes)
        assert not any(codes), (kind, output)
        assert elastic.difference(tmp_path / "0", tmp_path / f"{number}") < elastic.TOLERANCE, kind
