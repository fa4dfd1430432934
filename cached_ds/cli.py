"""The console script `cached-ds`: commands around a training run; training itself is launch/train.py.

Before a run, on all its ranks: `torchrun --nproc_per_node 2 --no-python cached-ds doctor recipe.yaml`.
After a run: `cached-ds report runs/quickstart`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from cached_ds.evaluation import curves as report
from cached_ds.evaluation.summarize import summarize_files
from cached_ds.leaving import give_up, leave
from cached_ds.run.flags import without_local_rank
from cached_ds.settings.extras import MissingExtra


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code, which is 2 for bad input."""
    parser = _parser()
    words = sys.argv[1:] if argv is None else argv
    arguments, rest = parser.parse_known_args(without_local_rank(words))
    if rest and arguments.run is not _doctor:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    try:
        return arguments.run(arguments) or 0
    except (ValueError, OSError, MissingExtra) as error:
        print(f"cached-ds: error: {error}", file=sys.stderr, flush=True)
        if dist.is_initialized():
            give_up(2)
        return 2


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
    examine = commands.add_parser("doctor", help="examine all ranks before a long run", add_help=False)
    examine.set_defaults(run=_doctor)  # it has a parser of its own for the rest, --help included
    return parser


def _doctor(arguments: argparse.Namespace) -> int:
    from cached_ds import doctor  # needs the libraries of training, which the other commands do without

    parser = argparse.ArgumentParser(
        prog="cached-ds doctor",
        usage="%(prog)s [LIMITS] [recipe.yaml] [flags of launch/train.py]",
        description="Run it on every rank, under the run's own launcher and with the run's own flags or recipe, which "
        "are checked too. Exit code 0: healthy; 1: the ranks at fault are named; 2: not all ranks could be examined.",
        allow_abbrev=False,
    )
    doctor.add_flags(parser)
    limits, argv = parser.parse_known_args(arguments.rest)
    examination = doctor.examine(argv, doctor.Limits(**vars(limits)))
    if examination.rank == 0:
        print(examination.text, flush=True)
    code = 0 if examination.healthy else 1
    leave(code)
    return code


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


if __name__ == "__main__":
    sys.exit(main())
