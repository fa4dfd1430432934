"""The picture of the README: a tiny BART learns to find eight facts in a document, and its report is photographed.

`report_picture.py FOLDER PICTURE.png`; takes some minutes of one core, and needs Chromium. FOLDER gets data and run.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

from cached_ds.evaluation.attribution.page import write_page
from cached_ds.evaluation.attribution.records import RECORDS
from helpers.repo import TRAIN
from lab.browser import Browser, installed

FACTS = {
    "ship": "old new small fast", "captain": "kind stern brave tired", "sea": "calm rough grey deep",
    "crew": "loyal young noisy hungry", "cargo": "heavy costly secret light", "island": "green rocky distant empty",
    "harbour": "busy quiet frozen hidden", "voyage": "long short happy sad",
}  # fmt: skip
OTHERS = "and then rain fell on hills while boats left under a pale moon near cold shores"
WORDS = 10  # around a fact
FLAGS = """--config_name tiny-bart --vocab_size 400 --window 16 --windows_per_pass 16 --max_target_length 64
--do_train true --do_predict true --predict_with_generate true --attribution occlusion
--per_device_train_batch_size 8 --per_device_eval_batch_size 8 --max_steps 1000 --learning_rate 0.001
--lr_scheduler_type constant_with_warmup --warmup_steps 100 --logging_steps 50 --save_strategy no --report_to none"""


def write(path, count, *, seed):
    """Documents whose facts are spread evenly, and summaries that tell them in order."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        facts = [f"The {name} was {rng.choice(words.split())}." for name, words in FACTS.items()]
        parts = [rng.choices(OTHERS.split(), k=WORDS) for _ in facts]
        for part, fact in zip(parts, facts, strict=True):
            part.insert(rng.randrange(WORDS + 1), fact)
        rows.append({"text": " ".join(word for part in parts for word in part), "summary": " ".join(facts)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def photograph(page, folder, picture):
    """Open a report and choose a sentence."""
    browser = Browser(installed(), folder / "chromium")
    browser.size(1120, 860)
    browser.open(page)
    browser.click(".sentence", 5)
    browser.run("scrollTo(0, 0)")
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=0, y=0)
    browser.screenshot(picture)
    browser.close()


def main(folder, picture):
    """Train, report, photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "train.jsonl", 4000, seed=0)
    write(folder / "test.jsonl", 12, seed=1)
    files = ["--train_file", folder / "train.jsonl", "--test_file", folder / "test.jsonl", "--output_dir", folder]
    subprocess.run([sys.executable, TRAIN, *FLAGS.split(), *files], check=True)
    photograph(write_page(folder / RECORDS), folder, picture)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
