"""The console script `cached-ds`: what one does around a training run. Training itself is launch/train.py."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cached_ds import report
from cached_ds.summarize import summarize_files


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 2 for bad input."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"cached-ds: error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cached-ds", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    draw = commands.add_parser("report", help="draw the curves of a training run")
    draw.add_argument("output_dir", help="the --output_dir of the run")
    draw.set_defaults(run=lambda arguments: print(report.draw(arguments.output_dir)))
    summarize = commands.add_parser("summarize", help="summarize whole text files")
    summarize.add_argument("model", help="a trained model: a folder, or a hub name")
    summarize.add_argument("files", nargs="+", type=Path, help="text files in UTF-8, a document each")
    summarize.add_argument("--window", type=int, default=1024, help="tokens per window (default: 1024)")
    summarize.add_argument("--num_beams", type=int, default=1, help="beams (default: 1)")
    summarize.add_argument(
        "--max_target_length", type=int, default=128, help="longest summary in tokens (default: 128)"
    )
    summarize.set_defaults(run=_summarize)
    return parser


def _summarize(arguments: argparse.Namespace) -> None:
    summaries = summarize_files(
        arguments.model,
        arguments.files,
        window=arguments.window,
        num_beams=arguments.num_beams,
        max_target_length=arguments.max_target_length,
    )
    for path, summary in summaries:
        print(f"{path}: {summary}")
