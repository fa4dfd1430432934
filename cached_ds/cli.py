"""The console script `cached-ds`: commands around a training run; training itself is launch/train.py.

Before a run, on all its ranks: `torchrun --nproc_per_node 2 --no-python cached-ds doctor recipe.yaml`.
After a run: `cached-ds report runs/quickstart`, `cached-ds summarize`, and `cached-ds export` of a checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch.distributed as dist

from cached_ds.evaluation import curves
from cached_ds.evaluation.attribution.attribute import Attribution, attribute
from cached_ds.evaluation.attribution.page import write_page
from cached_ds.evaluation.attribution.records import RECORDS, write_records
from cached_ds.evaluation.document_files import read_documents
from cached_ds.evaluation.summarize import summarize
from cached_ds.export import export
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
    draw = commands.add_parser("report", help="draw the curves of a training run, and where summaries come from")
    draw.add_argument("path", help="the --output_dir of the run, or a file of summarize --attribution")
    draw.set_defaults(run=_report)
    write = commands.add_parser("summarize", help="summarize whole documents")
    write.add_argument("--model", required=True, help="a trained model: a folder, or a hub name")
    write.add_argument("files", nargs="+", metavar="FILE", help="text, .jsonl, .pdf or .html; - is standard input")
    write.add_argument("--text_column", help="of JSON Lines (default: by its name)")
    write.add_argument("--window", type=int, help="tokens per window (default: as in training; else 1024 or fewer)")
    prefix = write.add_mutually_exclusive_group()
    prefix.add_argument("--prefix_column", help="of JSON Lines: each document's own prefix, such as a query")
    prefix.add_argument(
        "--source_prefix", help="text that every window begins with (default: as in training; else none)"
    )
    write.add_argument("--num_beams", type=_positive, help="beams (default: the model's own)")
    write.add_argument("--max_new_tokens", type=_positive, default=128, help="longest summary in tokens (default: 128)")
    write.add_argument("--cross_cache", choices=("kv", "none"), default="kv", help="none: less memory (default: kv)")
    write.add_argument("--json", action="store_true", help="write a JSON object per document and line")
    write.add_argument("--attribution", metavar="FILE.jsonl", help="write where each sentence comes from, for report")
    write.add_argument("--occlusion", action="store_true", help="score each sentence without its first window too")
    write.set_defaults(run=_summarize)
    plain = commands.add_parser("export", help="write a checkpoint as a plain Hugging Face folder")
    plain.add_argument("checkpoint", help="RUN/checkpoint-N of any engine, or the --output_dir of a run")
    plain.add_argument("out", help="the folder to write; it must not exist, or be empty")
    plain.set_defaults(run=_export)
    examine = commands.add_parser("doctor", help="examine all ranks before a long run", add_help=False)
    examine.set_defaults(run=_doctor)  # it has a parser of its own for the rest, --help included
    return parser


def _positive(text: str) -> int:
    """An integer >= 1; argparse names the flag."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is refused; allowed is an integer >= 1")
    return int(text)


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


def _report(arguments: argparse.Namespace) -> None:
    """The page of a file of records; of a folder both the page and the curves, where it has what they show."""
    path = Path(arguments.path)
    records = path / RECORDS if path.is_dir() else path
    if records.is_file():
        print(write_page(records))
    if not records.is_file() or (path / curves.STATE).is_file():
        print(curves.draw(path))


def _export(arguments: argparse.Namespace) -> None:
    written = export(arguments.checkpoint, arguments.out)
    print(f"{arguments.out}: {written.model}, {written.tensors} tensors, {', '.join(written.dtypes)}")


def _summarize(arguments: argparse.Namespace) -> None:
    """Every file is read before the model is loaded; a document is named where there are several."""
    names = ("window", "source_prefix", "num_beams", "max_new_tokens", "cross_cache")
    options = {name: getattr(arguments, name) for name in names}
    options["attribute"] = _attribute(arguments)
    columns = {"text_column": arguments.text_column, "prefix_column": arguments.prefix_column}
    documents = [document for path in arguments.files for document in read_documents(path, **columns)]
    for number, summary in enumerate(summarize(arguments.model, documents, **options)):
        record = dataclasses.asdict(summary)
        if sources := record.pop("attribution"):
            write_records(Path(arguments.attribution), [record | sources], append=number > 0)
        if arguments.json:
            print(json.dumps(record, ensure_ascii=False), flush=True)
        else:
            print(f"{summary.document}: {summary.summary}" if len(documents) > 1 else summary.summary, flush=True)


def _attribute(arguments: argparse.Namespace) -> Callable[..., Attribution] | None:
    """What says where sentences come from, if a file is to hold it; its folder must be there before any work."""
    if arguments.attribution is None:
        if arguments.occlusion:
            raise ValueError("--occlusion: its results are written by --attribution FILE.jsonl, which is not given")
        return None
    path = Path(arguments.attribution)
    if path.suffix != ".jsonl" or arguments.attribution in arguments.files:
        raise ValueError(f"--attribution {path} is refused; allowed is a .jsonl file that is none of the documents")
    if not path.parent.is_dir():
        raise ValueError(f"--attribution {path}: its folder does not exist")
    return functools.partial(attribute, occlusion=arguments.occlusion)


if __name__ == "__main__":
    sys.exit(main())
