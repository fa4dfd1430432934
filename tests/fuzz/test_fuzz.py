"""Any input to launch/train.py ends with exit code 0 or with one sentence and 2, and what is refused leaves nothing.

The inputs are the same on every machine and in every order of the tests; `make fuzz` makes up others.
"""

from __future__ import annotations

import os

import corpus
import pytest
from malformed import ATTEMPTS

from lab.forking import ForkingTrainer

SIDE_BY_SIDE = min(4, os.cpu_count() or 1)


@pytest.fixture(scope="module")
def trainer(folder, tmp_path_factory, zero_ops):  # noqa: ARG001
    """The script, ready to be tried."""
    with ForkingTrainer(folder, tmp_path_factory.mktemp("fuzz")) as server:
        yield server


@pytest.mark.timeout(500)
def test_what_is_known_to_be_malformed_is_refused(trainer):
    assert len(ATTEMPTS) >= 274 + 4 * 50
    faults = {}
    for name, outcome in zip(ATTEMPTS, outcomes(trainer, [*ATTEMPTS.values()]), strict=True):
        fault = outcome.fault() or (None if outcome.code == 2 else "accepted")
        faults |= {name: f"{fault}: {outcome.output[-300:]}"} if fault else {}
    assert not faults, "\n".join(f"{name}: {fault}" for name, fault in faults.items())


@pytest.mark.timeout(300)
def test_what_was_made_up_ends_well(trainer):
    made_up = corpus.read()
    assert len(made_up) + len(ATTEMPTS) >= 500
    for attempt, outcome in zip(made_up, outcomes(trainer, made_up), strict=True):
        assert outcome.fault() is None, f"{outcome.fault()} of {attempt}:\n{outcome.output[-2000:]}"


def test_the_corpus_is_read_as_it_was_written(tmp_path):
    assert corpus.read(corpus.write(corpus.read(), tmp_path / "corpus.json")) == corpus.read()


def outcomes(trainer, attempts):
    """The outcome of each attempt, some of which run at a time."""
    starts = range(0, len(attempts), SIDE_BY_SIDE)
    return [outcome for start in starts for outcome in trainer.run(*attempts[start : start + SIDE_BY_SIDE])]
