"""Who is at fault, read from made-up cards."""

from __future__ import annotations

from cached_ds.watch.card import Card, Place
from cached_ds.watch.culprit import silent, stuck


def card(rank, *, still=0.0, collectives=5, step=7, **changes):
    place = None if step is None else Place(step=step, window=12, windows=40, moves=1)
    return Card(
        rank=rank, host=f"h{rank}", pid=1, born=0.0, place=place, still=still, collectives=collectives, **changes
    )


def test_a_card_survives_its_line():
    for each in (card(1), card(2, step=None, bereft=True)):
        assert Card.of(each.line()) == each
    assert str(card(1)) == "rank 1 (host h1, step 7, window 12 of 40)"


def test_the_rank_that_others_wait_for_has_begun_fewer_collectives():
    waiting = [card(rank, still=31.0) for rank in (0, 2)]
    found = stuck([*waiting, card(1, still=35.0, collectives=4)], limit=30)
    assert found.sentence.startswith("rank 1 (host h1, step 7, window 12 of 40) has not moved for 35 s; the stacks")
    assert stuck([*waiting, card(1, still=2.0, collectives=4)], limit=30) is None, "a slow rank that moves"
    assert stuck([*waiting, card(1, collectives=4, step=None)], limit=30).sentence.startswith("rank 1 (host h1) has")
    assert stuck([*waiting, card(1, over=True, collectives=4)], limit=30).sentence.startswith("rank 0 (host h0, step ")
    assert stuck([card(rank, still=99.0, step=None) for rank in (0, 1)], limit=30) is None, "nobody trains"


def test_silent_ranks_are_named_whatever_the_others_do():
    cards, silence = [card(0, still=40.0), card(1, still=3.0), card(2, over=True)], {0: 0.5, 1: 28.0, 2: 99.0}
    assert silent(cards, silence, limit=30, ended=3) is None
    found = silent(cards, silence | {1: 31.0}, limit=30, ended=3)
    assert found.sentence == f"{cards[1]} has not moved for 34 s: its process is stopped or gone"
    assert found.deaf == [cards[1]]


def test_a_rank_that_another_has_lost_need_not_be_silent_for_long():
    cards = [card(0, bereft=True), card(1), card(2)]
    assert silent(cards, {0: 0.5, 1: 2.0, 2: 0.5}, limit=30, ended=3) is None
    found = silent(cards, {0: 0.5, 1: 4.0, 2: 5.0}, limit=30, ended=3)
    assert found.sentence.endswith("and rank 2 (host h2, step 7, window 12 of 40) have ended, or stand still")
