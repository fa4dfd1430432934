"""All that works after `pip install cached_ds` alone, and the sentences of all that does not.

`light_user.py FOLDER`, a workshop's; prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

import cached_ds
from cached_ds.settings.extras import EXTRA_OF, MissingExtra
from helpers import tiny
from helpers.repo import ROOT

MODULES = ("cached_ds.zero", "cached_ds.settings.deepspeed_keys", "cached_ds.data", "cached_ds.evaluation.metrics")


def doors():
    """The public names that `dir` lists and that lead somewhere, straight after `import cached_ds`."""
    public = set(cached_ds.__all__) - {"zero"}
    return [name for name in dir(cached_ds) if name in public and getattr(cached_ds, name)]


def step():
    """Attach and train a step; returns the names of the parameters that it did not change, and a summary's length."""
    model = cached_ds.attach(tiny.make_model("bart"), window=tiny.WINDOW)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    batch = tiny.make_batch("bart", [50, 20])
    model(**batch).loss.backward()
    optimizer.step()
    still = [
        name
        for name, parameter in model.named_parameters()
        if torch.equal(parameter, before[name]) and not name.endswith("k_proj.bias")  # which softmax does not see
    ]
    del batch["labels"]
    summary = model.eval().generate(**batch, min_length=5, max_length=5)
    return still, summary.shape[1]


def imported(name):
    """The sentence of an import."""
    try:
        importlib.import_module(name)
    except MissingExtra as error:
        return str(error)
    return None


def command(*words):
    """Exit code, output and errors of a program of this repository."""
    program, *sys.argv[1:] = map(str, words)
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            runpy.run_path(str(ROOT / program), run_name="__main__")
        except SystemExit as end:
            return end.code, output.getvalue(), errors.getvalue()
    return None


def commands(folder):
    """What became of each command, by name."""
    generation = ("--window", 16, "--max_new_tokens", 4)
    files = (ROOT / "setup.py", ROOT / "launch" / "train.py")
    return {
        "summarize": command("cached_ds/cli.py", "summarize", "--model", folder / "model", *generation, *files),
        "report": command("cached_ds/cli.py", "report", folder),
        "doctor": command("cached_ds/cli.py", "doctor"),
        "train": command("launch/train.py", "launch/quickstart.yaml"),
    }


def under_mpirun():
    """The sentence of a rank that mpirun has started, and that is not told where rank 0 is."""
    from cached_ds.ranks.discovery import discover

    try:
        discover({"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"})
    except MissingExtra as error:
        return str(error)
    return None


def main(folder):
    """Try it all."""
    found = {"doors": doors(), "step": step(), "missing": [name for name in EXTRA_OF if find_spec(name) is None]}
    found |= {name: imported(name) for name in MODULES} | {"mpirun": under_mpirun()}
    print(json.dumps(found | commands(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
