"""Shared pytest set-up: some tests need a CUDA device or --slow; pools of ranks serve the whole session.

Under pytest-xdist one worker runs all tests on the pools, one after another, another one those that start processes of
their own, and the tests that need one process fill the gaps. (xdist's own groups are without effect under pytest 9.2,
so a scheduler does it.)
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from cached_ds.op_locks import extensions_root, remove_stale_locks
from helpers.rank_pool import RankPool
from helpers.repo import ROOT
from lab.hosts import two_hosts
from lab.launched_pool import Pools
from lab.programs import PROGRAMS

PROCESS_ROOMS = {"benchmarks", "doctor", "faults", "fuzz", "launch", "ranks", "run", "training", "watch"}
# Where tests and fixtures ask for another fixture.
ASKING = r"(?:def test_\w+\(|@pytest\.fixture.*\ndef \w+\(|(?:usefixtures|getfixturevalue)\()[^)]*\b(?:%s)\b"
POOLS, PROCESSES = re.compile(ASKING % "launched|(?:four_|zero_)?ranks"), re.compile(ASKING % "browser|hosts|zero_ops")
BUILD_SECONDS = 300  # DeepSpeed compiles its shared-memory op once per machine: 45 s on two idle cores


def pytest_configure() -> None:
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "torch_extensions"))  # as the Makefile does
    torch.set_num_threads(1)  # tiny tensors: threads only wait for each other, and for those of the ranks


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked `slow` too")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which need not be there
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from xdist.scheduler import LoadScopeScheduling

    class ProcessesApart(LoadScopeScheduling):
        """Deals single tests, but those of a group as one; the largest piece first."""

        def _split_scope(self, nodeid: str) -> str:
            return group_of(ROOT / nodeid.split("::")[0]) or nodeid

    return ProcessesApart(config, log)


@functools.cache
def group_of(path: Path) -> str | None:
    """Whether a file's tests need pools of ranks or start processes, by the fixtures they ask for or its folder."""
    text = path.read_text(encoding="utf-8")
    if POOLS.search(text):
        return "pools"
    return "processes" if path.parent.name in PROCESS_ROOMS or PROCESSES.search(text) else None


@pytest.hookimpl(trylast=True)  # after pytest has put its own order in place
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=launcher_of)
    for item in items:
        if "zero_ops" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(BUILD_SECONDS + 120))
    reasons = {} if torch.cuda.is_available() else {"gpu": "needs a CUDA device"}
    reasons |= {} if config.getoption("--slow") else {"slow": "needs --slow"}
    for item in items:
        for name, reason in reasons.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


def launcher_of(item: pytest.Item) -> str:
    """Tests on a launcher's ranks come last, those of one launcher one after another: its ranks start only once."""
    return item.callspec.params.get("launcher", "") if hasattr(item, "callspec") else ""


@pytest.fixture(autouse=True)
def _as_torch_was():
    """A test must leave torch's switches as it found them: the tests after it in this process compare exactly."""
    before = _torch_switches()
    yield
    assert _torch_switches() == before


def _torch_switches():
    return {
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32 products": torch.get_float32_matmul_precision(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "attention kernels": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
    }


@contextmanager
def rank_pool(world):
    """So many gloo processes; started by the first test that runs something on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # DeepSpeed looks for ninja there
        pool = RankPool(world)
        yield pool
        pool.stop()


@pytest.fixture(scope="session")
def ranks():
    """Two gloo processes, ended with the session."""
    with rank_pool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def four_ranks(zero_ops):  # noqa: ARG001
    """Four of them, ended with the module: they are more than this machine may have cores."""
    with rank_pool(4) as pool:
        yield pool


@pytest.fixture(scope="session")
def launched(zero_ops):  # noqa: ARG001
    """`launched.run(launcher, function, **arguments)` on the two ranks of a launcher."""
    pools = Pools()
    yield pools
    pools.stop()


@pytest.fixture(scope="session")
def zero_ops():
    """Build DeepSpeed's shared-memory op where `make install` has not, so that no later test waits for the compiler."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "PATH": path}
    remove_stale_locks()
    if not list(extensions_root().rglob("deepspeed_shm_comm.so")):
        build = [sys.executable, PROGRAMS / "build_op.py"]
        subprocess.run(build, check=True, timeout=BUILD_SECONDS, env=environment)


@pytest.fixture(scope="session")
def zero_ranks(ranks, zero_ops):  # noqa: ARG001
    """The same pool, once DeepSpeed's shared-memory op is built."""
    return ranks


@pytest.fixture(scope="session")
def hosts():
    """Two hosts made of namespaces, or loopback addresses with a warning."""
    with two_hosts() as found:
        if not found.isolated:
            warnings.warn(f"namespaces are not allowed here: the hosts are {', '.join(found.names)}", stacklevel=1)
        yield found


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A workshop: a small model, its tokenizer and documents on disk; read it, do not write into it."""
    from lab import workshop  # `make gpu` runs the tests of the device where `datasets` need not be installed

    return workshop.build(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """The workshop's model, and seven documents of one window to several, whose summaries differ in length."""
    from lab import evaluating, workshop

    folder = workshop.build(tmp_path_factory.mktemp("many"))
    evaluating.write_many(folder)
    return folder


@pytest.fixture(scope="session")
def expected(folder):
    """Weights and losses after the workshop's steps of full backpropagation."""
    from lab import workshop

    return workshop.expected(folder)
