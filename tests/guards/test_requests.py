"""SIGTERM and SIGUSR1 to one rank, and the file `save_now`: all ranks save the same step; a signal ends the run."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from cached_ds.guards.requests import SIGNALS, Requests, take_save_now
from helpers.repo import ROOT
from lab import commands, mishaps, training, workshop
from lab.programs import PROGRAMS
from lab.workshop import flags

ENGINES = {
    "ddp": ("torchrun", {}, "SIGTERM"),
    "zero2": ("deepspeed", {"deepspeed": ROOT / "ds_configs/zero2.json"}, "SIGUSR1"),
    "fsdp": ("fsdp", {}, "SIGTERM"),
}
STEPS = {"gradient_accumulation_steps": 1, "optim": "adamw_torch", "learning_rate": 0.01, "max_steps": 4}

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("zero_ops")]


def checkpoints(output):
    return {path.name for path in output.glob("checkpoint-*")}


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return workshop.build(tmp_path_factory.mktemp("requests"), dropout=0.1)


@pytest.mark.parametrize(
    ("launcher", "engine"), [(launcher, engine) for engine, (launcher, *_) in ENGINES.items()], ids=ENGINES
)
def test_a_signal_to_one_rank_saves_on_all_and_the_run_goes_on_from_there(
    launched, documents, tmp_path, launcher, engine
):
    _, changes, name = ENGINES[engine]
    changes = STEPS | changes | {"enable_jit_checkpoint": True}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    launched.run(launcher, training.run, words=flags(documents, whole, **changes))
    words = flags(documents, stopped, **changes)
    found = launched.run(launcher, mishaps.run, words=words, fault=name, rank=1, step=2)
    assert [len(steps) for steps in found] == [2, 2], "both ranks end after the step in which the signal came"
    assert checkpoints(stopped) == {"checkpoint-2"} and not (stopped / "train_results.json").exists()
    assert (stopped / "checkpoint-2/rng_state_1.pth").exists() and not list(stopped.glob("*.safetensors"))
    launched.run(launcher, training.run, words=[*words, "--resume_from_checkpoint", "true"])
    expected, resumed = (AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict() for folder in (whole, stopped))
    assert all(torch.equal(resumed[each], value) for each, value in expected.items())


def test_a_run_that_a_signal_ends_is_a_success(documents, tmp_path):
    words = flags(documents, tmp_path, **STEPS, enable_jit_checkpoint=True, do_eval=True,
                  validation_file=documents / "validation.jsonl", eval_strategy="steps", eval_steps=2)  # fmt: skip
    program = [*commands.launcher("torchrun"), PROGRAMS / "faulty_run.py", "SIGUSR1", 0, 2]
    done = commands.run([*program, *words])
    assert done.returncode == 0 and checkpoints(tmp_path) == {"checkpoint-2"}, done.stdout
    assert "stopped by SIGUSR1 after step 2, which is saved as checkpoint-2" in done.stdout
    assert not (tmp_path / "eval_results.json").exists() and "eval_loss" not in done.stdout


def test_save_now_saves_at_the_next_step(launched, documents, tmp_path):
    (tmp_path / "save_now").touch()
    launched.run("torchrun", training.run, words=flags(documents, tmp_path, **STEPS))
    assert checkpoints(tmp_path) == {"checkpoint-1"} and not (tmp_path / "save_now").exists()
    assert (tmp_path / "model.safetensors").exists(), "the run went on"


def test_save_now_is_taken_once(tmp_path):
    (tmp_path / "save_now").touch()
    assert take_save_now(tmp_path) and not take_save_now(tmp_path)


def test_signals_are_given_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    requests = Requests()
    requests.listen()
    os.kill(os.getpid(), signal.SIGUSR1)
    requests.restore()
    assert requests.signal == signal.SIGUSR1 and [signal.getsignal(number) for number in SIGNALS] == before
