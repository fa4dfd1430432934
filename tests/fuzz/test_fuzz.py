"""Any input to launch/train.py ends with exit code 0 or with one sentence and 2, and what is refused leaves nothing."""

from __future__ import annotations

import os

import inputs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import ATTEMPTS

from lab.forking import ForkingTrainer

SIDE_BY_SIDE = min(4, os.cpu_count() or 1)
EXAMPLES = 12  # of so many inputs each; `make fuzz` runs for as long as it is told


@pytest.fixture(scope="module")
def trainer(folder, tmp_path_factory, zero_ops):  # noqa: ARG001
    """The script, ready to be tried."""
    with ForkingTrainer(folder, tmp_path_factory.mktemp("fuzz")) as server:
        yield server


@pytest.mark.timeout(500)
def test_what_is_known_to_be_malformed_is_refused(trainer):
    assert len(ATTEMPTS) >= 274 + 4 * 50
    faults = {}
    named = list(ATTEMPTS.items())
    for start in range(0, len(named), SIDE_BY_SIDE):
        some = named[start : start + SIDE_BY_SIDE]
        for (name, _), outcome in zip(some, trainer.run(*(attempt for _, attempt in some)), strict=True):
            fault = outcome.fault() or (None if outcome.code == 2 else "accepted")
            faults |= {name: f"{fault}: {outcome.output[-300:]}"} if fault else {}
    assert not faults, "\n".join(f"{name}: {fault}" for name, fault in faults.items())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", inputs.KINDS)
def test_made_up_inputs_end_well(trainer, kind):
    some = st.lists(inputs.KINDS[kind](), min_size=SIDE_BY_SIDE, max_size=SIDE_BY_SIDE)

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(attempts=some)
    def end_well(attempts):
        for attempt, outcome in zip(attempts, trainer.run(*attempts), strict=True):
            assert outcome.fault() is None, f"{outcome.fault()} of {attempt}:\n{outcome.output[-2000:]}"

    end_well()
