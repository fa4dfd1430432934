"""`keyfacts`: generated documents of any length whose facts, spread evenly, must all be reported.

A document is cut into `num_facts` equal segments of filler words; each segment holds one fact at a random position, and
a model that reads only the first part of a document can report only that part of the facts.

- variant "single": a fact is one word with its number and its value, `fact3=17`; the summary is the facts in order.
  (The word has the number because windows are encoded apart: nothing else could tell which of two came first.)
- variant "keyvalue" (harder): a fact is a key and a value, `key3 fact17`, with the keys in random order over the
  document; the summary is the values in the order of the keys, so values must be bound to their keys.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from datasets import Dataset, DatasetDict, Features, NamedSplit, Value
from datasets.fingerprint import Hasher

VARIANTS = ("single", "keyvalue")
_RULES_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class KeyFactsConfig:
    """The options of `keyfacts`.

    Raises:
        ValueError: an option out of range, or facts that do not fit into the document.
    """

    length: int = field(default=512, metadata={"help": "words per document"})
    num_facts: int = field(default=8, metadata={"help": "facts per document"})
    num_values: int = field(default=32, metadata={"help": "different facts (or values) there are"})
    num_fillers: int = field(default=64, metadata={"help": "different filler words there are"})
    variant: str = field(default="single", metadata={"help": "'single' or 'keyvalue'"})
    num_train: int = field(default=2_000, metadata={"help": "training documents"})
    num_validation: int = field(default=100, metadata={"help": "validation documents"})
    num_test: int = field(default=100, metadata={"help": "test documents"})
    seed: int = field(default=0, metadata={"help": "seed of all random choices"})

    def __post_init__(self) -> None:
        """Refuse options that no document can meet."""
        if self.variant not in VARIANTS:
            raise ValueError(f"variant={self.variant!r}: must be one of {', '.join(VARIANTS)}")
        for name in ("num_facts", "num_values", "num_fillers", "num_train", "num_validation", "num_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.length < self.num_facts * self.fact_words:
            raise ValueError(
                f"length={self.length}: must be at least {self.num_facts * self.fact_words} for "
                f"num_facts={self.num_facts} and variant={self.variant!r}"
            )

    @property
    def fact_words(self) -> int:
        """The number of words of one fact in the document."""
        return 1 if self.variant == "single" else 2

    @classmethod
    def parse(cls, text: str | None) -> KeyFactsConfig:
        """The options in text such as `length=2048,num_facts=8`; those not named keep their defaults.

        Raises:
            ValueError: an unknown option (with the nearest known one), or a value that is not allowed.
        """
        options: dict[str, Any] = dict(_parse_option(option) for option in text.split(",")) if text else {}
        return cls(**options)


def load_keyfacts(config_name: str | None = None) -> DatasetDict:
    """Generate the data set, or take it from the cache.

    Args:
        config_name: options as `KeyFactsConfig.parse` reads them; None: the defaults.

    Raises:
        ValueError: what `KeyFactsConfig.parse` refuses.
    """
    config = KeyFactsConfig.parse(config_name)
    sizes = {"train": config.num_train, "validation": config.num_validation, "test": config.num_test}
    return DatasetDict({split: _build(config, split=split, size=size) for split, size in sizes.items()})


def make_document(config: KeyFactsConfig, *, split: str, index: int) -> dict[str, str]:
    """Make one document and its summary; every (seed, split, index) has a random stream of its own."""
    stream = random.Random(f"{config.seed}/{split}/{index}")
    keys = stream.sample(range(config.num_facts), config.num_facts)
    values = [stream.randrange(config.num_values) for _ in keys]
    words = [f"word{filler}" for filler in stream.choices(range(config.num_fillers), k=config.length)]
    if config.variant == "single":
        facts = [[f"fact{number}={value}"] for number, value in enumerate(values)]
        summary = [word for (word,) in facts]
    else:
        facts = [[f"key{key}", f"fact{value}"] for key, value in zip(keys, values, strict=True)]
        summary = [value for _, value in sorted(facts, key=lambda fact: int(fact[0].removeprefix("key")))]
    for place, fact in zip(_fact_places(config, stream), facts, strict=True):
        words[place : place + len(fact)] = fact
    return {"text": " ".join(words), "summary": " ".join(summary)}


def exact_match(predictions: Sequence[str], *, references: Sequence[str]) -> float:
    """The fraction of the references' facts that the predictions report in the right place.

    Raises:
        ValueError: no references, or not one prediction for each.
    """
    if len(predictions) != len(references) or not references:
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} references: need one each, at least one"
        )
    right = total = 0
    for prediction, reference in zip(predictions, references, strict=True):
        expected = reference.split()
        right += sum(said == fact for said, fact in zip(prediction.split(), expected, strict=False))
        total += len(expected)
    return right / total


def _parse_option(option: str) -> tuple[str, int | str]:
    name, equals, value = option.partition("=")
    name, names = name.strip(), [known.name for known in fields(KeyFactsConfig)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        raise ValueError(f"keyfacts has no option {name!r}; the nearest is {near[0]!r}, all are {', '.join(names)}")
    if name == "variant":
        return name, value.strip()
    if not equals or not value.strip().lstrip("-").isdigit():
        raise ValueError(f"keyfacts option {option.strip()!r}: must be {name}=<whole number>")
    return name, int(value)


def _fact_places(config: KeyFactsConfig, stream: random.Random) -> list[int]:
    """A random position in each of `num_facts` equal segments, at which a fact fits into the segment."""
    bounds = [fact * config.length // config.num_facts for fact in range(config.num_facts + 1)]
    return [
        stream.randrange(start, stop - config.fact_words + 1)
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True)
    ]


def _build(config: KeyFactsConfig, *, split: str, size: int) -> Dataset:
    return Dataset.from_generator(
        _documents,
        features=Features({"text": Value("string"), "summary": Value("string")}),
        gen_kwargs={"config": config, "split": split, "size": size},
        split=NamedSplit(split),
        fingerprint=Hasher.hash((_RULES_VERSION, split, sorted(asdict(config).items()))),
        writer_batch_size=64,
    )


def _documents(config: KeyFactsConfig, split: str, size: int) -> Iterator[dict[str, str]]:
    for index in range(size):
        yield make_document(config, split=split, index=index)
