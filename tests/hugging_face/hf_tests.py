"""transformers' own tests of the six families, on plain and on attached models.

    make hf-tests TRANSFORMERS=DIR        # a checkout of transformers at the installed version, or near it

The tests run once as they are. Those that pass run again for every setting of SETTINGS, with every encoder-decoder
that a test makes attached (attached_plugin.py). A test that fails only there has to be of a kind that the
documentation names (differences.py). Prints the others with their tracebacks and exits with 1; writes the counts into
hf_tests.md and hf_tests.json. Tests that need the network, a GPU or RUN_SLOW are skipped, as transformers' are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from differences import KINDS, kind_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from harness.benchmark import flag_parser  # noqa: E402
from harness.trials import write_json  # noqa: E402
from reports.results import Promise, markdown  # noqa: E402

TITLES = {"bart": "BART", "led": "LED", "mbart": "mBART", "pegasus": "PEGASUS", "t5": "T5", "mt5": "mT5"}
PLAIN = "plain"
SETTINGS: dict[str, dict[str, Any] | None] = {
    PLAIN: None,
    "attached": {},
    "attached, cross-attention and loss as in Hugging Face": {"stream_cross_attention": False, "chunked_loss": False},
}
SECONDS_PER_TEST = 900
Outcome = dict[str, str]  # a test's id and outcome; of a failed one its traceback


def run(checkout: Path, tests: Sequence[str], attach: dict[str, Any] | None) -> list[Outcome]:
    """The outcomes of these tests, run in the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        report, chosen = Path(folder, "report.jsonl"), Path(folder, "tests.txt")
        chosen.write_text("\n".join(tests), encoding="utf-8")
        told = json.dumps({"report": str(report), "attach": attach})
        paths = [str(ROOT), str(HERE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {"CACHED_DS_HF_TESTS": told, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "attached_plugin", "--noconftest", "-o", "addopts="]
        command += ["-o", "log_cli=0", "-p", "no:cacheprovider", "-W", "ignore", "--tb", "short", "--runxfail"]
        command += ["--timeout", str(SECONDS_PER_TEST), f"@{chosen}"]
        ended = subprocess.run(command, cwd=checkout, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
        if ended.returncode not in (0, 1):
            raise SystemExit(f"pytest ended with {ended.returncode}:\n{ended.stdout[-4000:]}")
        return [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]


def passed(outcomes: Sequence[Outcome]) -> list[str]:
    """The ids of the tests that passed."""
    return [outcome["test"] for outcome in outcomes if outcome["outcome"] == "passed"]


def failures(setting: str, outcomes: Sequence[Outcome]) -> list[dict[str, str | None]]:
    """A row for every test that did not pass, with the title of its kind or its traceback."""
    rows = []
    for outcome in outcomes:
        if outcome["outcome"] != "passed":
            kind = kind_of(outcome.get("trace", ""))
            row = {"setting": setting, "test": outcome["test"], "kind": kind and kind.title}
            rows.append(row if kind else row | {"trace": outcome.get("trace", "skipped")})
    return rows


def counts(tests: Sequence[str]) -> dict[str, int]:
    """How many of these tests each family has."""
    found = Counter(test.split("/")[2] for test in tests)
    return {family: found[family] for family in TITLES}


def table(results: dict[str, Any]) -> str:
    """The tests that pass, by family; those that do not, by kind."""
    settings = list(results["passed"])
    lines = [
        [f"pass, {title}", *(f"{results['passed'][name][family]:,}" for name in settings)]
        for family, title in TITLES.items()
    ]
    lines.append(["pass", *(f"{sum(results['passed'][name].values()):,}" for name in settings)])
    found = Counter((row["setting"], row["kind"]) for row in results["failures"])
    for title in (*(kind.title for kind in KINDS), None):
        cells = ["–" if name == PLAIN else str(found[name, title]) for name in settings]
        lines.append([title or "**fail for another reason**", *cells])
    return markdown(["tests of transformers", *settings], lines)


def measure(checkout: Path) -> dict[str, Any]:
    """Run everything; returns what is written as JSON."""
    tests = [f"tests/models/{family}/test_modeling_{family}.py" for family in TITLES]
    results: dict[str, Any] = {"transformers": transformers.__version__, "checkout": version_of(checkout)}
    results |= {"passed": {}, "failures": []}
    for setting, attach in SETTINGS.items():
        outcomes = run(checkout, tests, attach)
        results["passed"][setting] = counts(passed(outcomes))
        if setting == PLAIN:
            tests = passed(outcomes)
        else:
            results["failures"] += failures(setting, outcomes)
        print(f"{setting}: {sum(results['passed'][setting].values())} pass", flush=True)
    return results


def version_of(checkout: Path) -> str:
    """The version of a checkout of transformers."""
    text = (checkout / "src" / "transformers" / "__init__.py").read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "(.+)"', text, flags=re.MULTILINE)[0]


def report(results: dict[str, Any], folder: Path) -> int:
    """Write table and JSON, print the table and what no page names; returns the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hf_tests.md").write_text(table(results), encoding="utf-8")
    write_json(folder / "hf_tests.json", results, indent=2)
    unnamed = [row for row in results["failures"] if row["kind"] is None]
    for row in unnamed:
        print(f"{row['test']} ({row['setting']}):\n{row['trace']}\n")
    print(table(results))
    promise = Promise("tests that fail for a reason that no page names", len(unnamed), 0)
    print(promise.line())
    return int(not promise.passed)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = flag_parser(__doc__)
    parser.add_argument("checkout", type=Path, help="a checkout of transformers at the installed version, or near it")
    return parser.parse_args()


def main() -> int:
    """Run, write, print; returns the exit code."""
    arguments = parse()
    return report(measure(arguments.checkout.resolve()), arguments.output_dir)


if __name__ == "__main__":
    sys.exit(main())
