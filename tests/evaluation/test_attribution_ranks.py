"""Attribution of a run's predictions: the same records for any number of ranks, whole or sharded."""

from __future__ import annotations

import pytest

from lab import evaluating


@pytest.fixture(scope="module")
def alone(many):
    """What one process finds."""
    return evaluating.attribute(many)


def test_records_come_in_the_order_of_the_documents(alone):
    assert [record["document"] for record in alone] == [f"document {number}" for number in range(7)]
    assert [record["summary"].count("word") for record in alone] == [3, 1, 6, 2, 7, 4, 5]
    assert [record["sentences"][0]["drop"] is None for record in alone] == [each["windows"] == 1 for each in alone]
    assert {len(record["spans"]) for record in alone} == {1, 2, 3}


@pytest.mark.parametrize("sharded", [False, True], ids=["whole", "FSDP2"])
def test_two_ranks_find_what_one_finds(ranks, many, alone, sharded):
    for found in ranks.run(evaluating.attribute, folder=many, sharded=sharded):
        assert found == alone
