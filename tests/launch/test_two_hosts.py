"""Every launcher trains `pysource` over two hosts as two ranks of one host do: the same losses."""

from __future__ import annotations

import json

import pytest

from cached_ds.run.arguments import parse
from cached_ds.run.build import build_data, build_model
from lab import host_scripts, training
from lab.programs import PROGRAMS

TOLERANCE = 1e-6
STEPS = 2
RUNS = {
    "torchrun.sh": ["zero2", "zero3"],
    "deepspeed_no_ssh.sh": ["zero2", "zero3"],
    "mpirun.sh": ["zero2", "zero3"],
    "accelerate_fsdp.sh": ["launcher"],
}
FLAGS = {
    "dataset_name": "pysource", "dataset_config_name": "stdlib", "max_train_samples": 2 * STEPS, "max_eval_samples": 1,
    "max_source_length": 4000,  # 14 or 16 windows
    "max_predict_samples": 1, "window": 256, "max_target_length": 32, "do_train": True, "max_steps": STEPS,
    "per_device_train_batch_size": 1, "learning_rate": 0.001, "lr_scheduler_type": "constant", "save_strategy": "no",
    "report_to": "none", "logging_steps": 1, "disable_tqdm": True,
}  # fmt: skip

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("zero_ops")]


def flags(**more):
    return [str(word) for name, value in (FLAGS | more).items() for word in (f"--{name}", value)]


def losses(folder):
    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    found = [entry["loss"] for entry in history if "loss" in entry]
    assert len(found) == STEPS
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny BART with a tokenizer for `pysource`, in a folder."""
    folder = tmp_path_factory.mktemp("model")
    arguments = parse(flags(config_name="tiny-bart", vocab_size=512, output_dir=folder))
    _, tokenizer = build_data(arguments)
    build_model(arguments, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def single_host(model, zero_ranks, tmp_path_factory):
    """The losses under ZeRO-2 and ZeRO-3, with two ranks on this host."""
    output, stages = tmp_path_factory.mktemp("single"), ["zero2", "zero3"]
    words = flags(model_name_or_path=model)
    zero_ranks.run(training.run_engines, output=str(output), engines=stages, words=words)
    return {stage: losses(output / stage) for stage in stages}


@pytest.mark.parametrize("script", RUNS)
def test_losses_are_those_of_one_host(script, hosts, model, single_host, tmp_path):
    words = [tmp_path / "out", ",".join(RUNS[script]), *flags(model_name_or_path=model)]
    train = PROGRAMS / "two_engines.py"
    commands, environment = host_scripts.prepare(hosts, script, words, folder=tmp_path, train=train)
    for number, each in enumerate(hosts.run(commands, timeout=300, **environment)):
        assert each.returncode == 0, f"host {number}:\n{each.output}"
        assert not each.survivors
    for engine in RUNS[script]:
        expected = single_host["zero2" if engine == "launcher" else engine]
        assert losses(tmp_path / "out" / engine) == pytest.approx(expected, rel=0, abs=TOLERANCE)
