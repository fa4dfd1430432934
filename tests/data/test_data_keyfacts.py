"""`keyfacts`: facts spread evenly, one random stream per document, options refused by name, and the measure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cached_ds.data import DataArguments, KeyFactsConfig, exact_match, load_splits
from cached_ds.data.sources.keyfacts import make_document

options = st.builds(
    KeyFactsConfig,
    length=st.integers(16, 300),
    num_facts=st.integers(1, 8),
    num_values=st.integers(1, 9),
    variant=st.sampled_from(["single", "keyvalue"]),
)


def fact_places(words: list[str]) -> list[int]:
    return [place for place, word in enumerate(words) if word.startswith("fact")]


@given(options, st.integers(0, 5))
def test_one_fact_in_each_segment(config: KeyFactsConfig, index: int) -> None:
    document = make_document(config, split="train", index=index)
    words, facts = document["text"].split(" "), document["summary"].split(" ")
    places = fact_places(words)
    assert len(words) == config.length and len(places) == len(facts) == config.num_facts
    for fact, place in enumerate(places):
        start, stop = (bound * config.length // config.num_facts for bound in (fact, fact + 1))
        assert start <= place < stop and (config.variant == "single" or start <= place - 1)


@given(options)
def test_the_summary_can_be_read_off_the_document(config: KeyFactsConfig) -> None:
    document = make_document(config, split="test", index=0)
    words = document["text"].split()
    facts = [words[place] for place in fact_places(words)]
    if config.variant == "keyvalue":
        keys = [int(words[place - 1].removeprefix("key")) for place in fact_places(words)]
        facts = [fact for _, fact in sorted(zip(keys, facts, strict=True))]
    assert document["summary"].split() == facts


def test_places_cover_the_whole_segment() -> None:
    config = KeyFactsConfig(length=32, num_facts=4)
    found = {
        place
        for index in range(300)
        for place in fact_places(make_document(config, split="train", index=index)["text"].split())
    }
    assert found == set(range(32))


def test_truncation_loses_the_truncated_part() -> None:
    config = KeyFactsConfig(length=800, num_facts=8)
    document = make_document(config, split="train", index=0)
    seen = " ".join(word for word in document["text"].split()[:400] if word.startswith("fact"))
    assert exact_match([seen], references=[document["summary"]]) == 0.5


def test_streams_are_reproducible_and_never_shared() -> None:
    texts = [
        make_document(KeyFactsConfig(seed=seed), split=split, index=index)["text"]
        for seed in range(3)
        for split in ("train", "validation", "test")
        for index in range(3)
    ]
    assert len(set(texts)) == len(texts)
    assert texts[0] == make_document(KeyFactsConfig(), split="train", index=0)["text"]
    assert make_document(KeyFactsConfig(length=4, num_facts=1), split="train", index=0) == {
        "text": "fact0=27 word14 word14 word31",
        "summary": "fact0=27",
    }


def test_loaded_by_name() -> None:
    arguments = DataArguments(
        dataset_name="keyfacts",
        dataset_config_name="length=64, num_facts=4,variant=keyvalue,num_train=7,num_validation=3,num_test=2",
        max_eval_samples=2,
    )
    splits = load_splits(arguments)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 7, "validation": 2, "test": 2}
    config = KeyFactsConfig(length=64, num_facts=4, variant="keyvalue")
    assert splits["validation"][1] == make_document(config, split="validation", index=1)


def test_defaults() -> None:
    assert KeyFactsConfig.parse(None) == KeyFactsConfig.parse("") == KeyFactsConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lenght=3", r"keyfacts has no option 'lenght'; the nearest is 'length', all are length, num_facts, "),
        ("length", r"keyfacts option 'length': must be length=<whole number>"),
        ("length=many", r"keyfacts option 'length=many': must be length=<whole number>"),
        ("variant=double", r"variant='double': must be one of single, keyvalue"),
        ("num_facts=0", r"num_facts=0: must be at least 1"),
        ("num_train=-1", r"num_train=-1: must be at least 1"),
        ("length=15,num_facts=8,variant=keyvalue", r"length=15: must be at least 16 for num_facts=8 and variant='key"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeyFactsConfig.parse(text)


def test_exact_match() -> None:
    assert exact_match(["a b", "x"], references=["a c", "x y"]) == 0.5
    assert exact_match(["b a extra", ""], references=["a b", "c"]) == 0.0
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        exact_match(["a"], references=["a", "b"])
    with pytest.raises(ValueError, match="0 predictions for 0 references"):
        exact_match([], references=[])
