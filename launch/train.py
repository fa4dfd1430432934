"""Train an encoder-decoder on whole documents, with one script for every launcher.

    python launch/train.py launch/quickstart.yaml
    deepspeed --num_gpus 2 launch/train.py --deepspeed ds_configs/zero2.json --model_name_or_path ... --train_file ...
    torchrun --nproc_per_node 2 launch/train.py --model_name_or_path ... --train_file ...
    accelerate launch --config_file ds_configs/fsdp.yaml launch/train.py --model_name_or_path ... --train_file ...

The scripts beside this file start it on many nodes. With `doctor` before its flags it runs `cached-ds doctor` on the
same ranks instead of training. Flags and output files are those of transformers' `run_summarization.py`. Bad input ends
every rank with exit code 2 and one sentence, before any work.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

gc.disable()  # imports leave no garbage: a start takes a tenth less time

from transformers import PreTrainedTokenizerBase, Seq2SeqTrainingArguments, set_seed  # noqa: E402

from cached_ds.settings.extras import MissingExtra  # noqa: E402
from cached_ds.settings.versions import UnsupportedVersion, check_versions  # noqa: E402

try:
    from cached_ds import CachedSeq2SeqTrainer, cli
    from cached_ds.attachment import windowed_encoder
    from cached_ds.checkpoints.choice import WholeCheckpoint, choose_checkpoint
    from cached_ds.data import WholeDocumentCollator
    from cached_ds.evaluation import curves as report
    from cached_ds.evaluation.attribution.predictions import attribute_predictions
    from cached_ds.evaluation.attribution.records import RECORDS, write_records
    from cached_ds.evaluation.bertscore import BertScore
    from cached_ds.evaluation.metrics import Scored, Scorer, SummaryMetrics, intervals
    from cached_ds.evaluation.rouge import Rouge
    from cached_ds.guards.disk import check_writable, disk_faults
    from cached_ds.guards.faults import TrainingFault
    from cached_ds.leaving import give_up, leave
    from cached_ds.provenance.record import recorded_run, write_record
    from cached_ds.ranks import logs as rank_logs
    from cached_ds.ranks.discovery import RankInfo
    from cached_ds.ranks.startup import start_rank, start_watchdog
    from cached_ds.run.arguments import Arguments, parse, read_flags
    from cached_ds.run.build import build_data, build_model, check_targets, places_of
    from cached_ds.run.flags import without_local_rank
    from cached_ds.run.generation_settings import generation_settings
    from cached_ds.run.recipe import located
    from cached_ds.run.recorded import recorded
    from cached_ds.run.training_checks import check_deepspeed_steps, check_optimizer
    from cached_ds.training.watched import WatchedCallback
    from cached_ds.watch.launcher import Launcher
except MissingExtra as missing:
    print(f"train.py: error: {missing}", file=sys.stderr)
    sys.exit(2)

gc.freeze()  # what was imported stays; collections need not look at it
gc.enable()

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def main(argv: Sequence[str]) -> None:
    """Run the doctor or the training run, and end this rank."""
    if without_local_rank(argv)[:1] == ["doctor"]:
        sys.exit(cli.main(argv))
    work(argv)
    leave()


def work(argv: Sequence[str]) -> None:
    """Meet the other ranks, parse, build, train, evaluate, predict."""
    info = None
    with user_errors(info, argv):
        info = start_rank(argv)
    launcher = Launcher.of_rank()
    with user_errors(info, argv):
        arguments = parse(argv)
        training = arguments.training
        rank_logs.set_up(info, library_level=training.get_process_log_level())
        watchdog = start_watchdog(info, limit=arguments.step_timeout, launcher=launcher)
        check_versions()
        if training.local_process_index == 0:
            check_writable(str(training.output_dir))
        set_seed(arguments.training.seed)
        splits, tokenizer = build_data(arguments)
        model: Any = build_model(arguments, tokenizer)  # its class is the one that its config names
        check_targets(model, splits, arguments)
        if training.do_train:
            check_optimizer(training, model)
            check_deepspeed_steps(training, model, documents=len(splits["train"]))
        checkpoint = checkpoint_of(training) if training.do_train else None
        trainer = trainer_of(model, splits, arguments, tokenizer)
        trainer.check_checkpoint(checkpoint)
        trainer.add_callback(WatchedCallback(watchdog))
        rank_logs.open_file(info, str(training.output_dir))
        if training.do_train and trainer.is_world_process_zero():
            record_run(trainer, arguments, read_flags(argv))
    with watchdog, faults(info, trainer):
        run(trainer, splits, arguments, checkpoint=checkpoint)


def checkpoint_of(training: Seq2SeqTrainingArguments) -> WholeCheckpoint | None:
    """From which checkpoint the run goes on; None: it begins."""
    run = recorded_run(Path(str(training.output_dir)))
    return choose_checkpoint(training, training.resume_from_checkpoint, run=run)


def record_run(trainer: CachedSeq2SeqTrainer, arguments: Arguments, flags: Sequence[str]) -> None:
    """Write what the run was told, and how it reads documents."""
    data, columns = arguments.data, trainer.train_dataset.column_names
    own_prefixes = data.source_prefix is None and ("prefix_length" in columns or data.keep_prefix)
    cached = windowed_encoder(trainer.model)._cached_ds.config
    record = recorded(arguments, flags, cached=cached, own_prefixes=own_prefixes, run=trainer.run)
    write_record(Path(str(trainer.args.output_dir)), record)


def trainer_of(
    model: Any, splits: DatasetDict, arguments: Arguments, tokenizer: PreTrainedTokenizerBase
) -> CachedSeq2SeqTrainer:
    """The Trainer of a run."""
    padding = arguments.data.pad_to_multiple_of
    return CachedSeq2SeqTrainer(
        model,
        arguments.training,
        train_dataset=splits.get("train"),
        eval_dataset=splits.get("validation"),
        processing_class=tokenizer,
        data_collator=WholeDocumentCollator(tokenizer, model=model, pad_to_multiple_of=padding),
        compute_metrics=metrics_for(arguments, tokenizer),
        max_skipped_steps=arguments.guards.max_skipped_steps,
        place_of=places_of(arguments.data, "train"),
    )


def metrics_for(arguments: Arguments, tokenizer: PreTrainedTokenizerBase) -> SummaryMetrics | None:
    """Scores of generated summaries; None if no summaries are generated."""
    if not arguments.training.predict_with_generate:
        return None
    model, scorers = arguments.model, list[Scorer]()
    scorers.append(Rouge(tokenizer=model.rouge_tokenizer, sentences=model.rouge_sentences))
    if model.bertscore_model is not None:
        scorers.append(BertScore(model.bertscore_model, num_layers=model.bertscore_num_layers))
    return SummaryMetrics(tokenizer, scorers=scorers, facts=arguments.data.is_keyfacts)


@contextmanager
def user_errors(info: RankInfo | None, argv: Sequence[str]) -> Iterator[None]:
    """Turn an error that the user can mend into one sentence and exit code 2."""
    try:
        yield
    except (ValueError, OSError, MissingExtra, UnsupportedVersion) as error:
        sentence = located(str(error), without_local_rank(argv))
        print(f"train.py: error: {rank_logs.whereabouts(info)}{sentence}", file=sys.stderr, flush=True)
        give_up(2)


@contextmanager
def faults(info: RankInfo | None, trainer: CachedSeq2SeqTrainer) -> Iterator[None]:
    """Turn the end of a run that cannot go on into one sentence and exit code 1; the other ranks end too."""
    try:
        with disk_faults(str(trainer.args.output_dir), said=lambda: f"step {trainer.state.global_step}"):
            yield
    except TrainingFault as fault:
        print(f"train.py: error: {rank_logs.whereabouts(info)}{fault}", file=sys.stderr, flush=True)
        give_up(1)


def run(
    trainer: CachedSeq2SeqTrainer, splits: DatasetDict, arguments: Arguments, *, checkpoint: WholeCheckpoint | None
) -> None:
    """Do what `--do_train`, `--do_eval` and `--do_predict` ask for, and write the files of each."""
    training = arguments.training
    if training.predict_with_generate and trainer.is_world_process_zero():
        settings = generation_settings(trainer.model, training).items()
        print("generation:", ", ".join(f"{name.removeprefix('generation_')} {value}" for name, value in settings))
    if training.do_train:
        train(trainer, splits["train"], checkpoint=checkpoint)
    if trainer.stopped_by:
        return
    if training.do_eval:
        metrics = trainer.evaluate(metric_key_prefix="eval") | {"eval_samples": len(splits["validation"])}
        save_metrics(trainer, "eval", metrics | named(trainer))
    if training.do_predict:
        predict(trainer, splits["test"], arguments)
    if training.do_train and trainer.is_world_process_zero():
        print(f"curves: {draw(training.output_dir)}")


def draw(output_dir: str | None) -> str:
    """Draw the curves; returns the picture's path, or how to install matplotlib: the run is complete without it."""
    try:
        return str(report.draw(str(output_dir)))
    except MissingExtra as missing:
        return f"not drawn; {missing}"


def train(trainer: CachedSeq2SeqTrainer, documents: Dataset, *, checkpoint: WholeCheckpoint | None) -> None:
    """Train, and save the model as `from_pretrained` reads it; not if a signal has ended training."""
    result = trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.stopped_by:
        tell_stop(trainer)
        return
    trainer.save_model()
    save_metrics(trainer, "train", result.metrics | {"train_samples": len(documents)})
    trainer.save_state()


def tell_stop(trainer: CachedSeq2SeqTrainer) -> None:
    """Say where a run that a signal has ended goes on."""
    step = trainer.state.global_step
    if trainer.is_world_process_zero():
        print(
            f"stopped by {trainer.stopped_by} after step {step}, which is saved as checkpoint-{step}; the same command "
            "with --resume_from_checkpoint true goes on from it"
        )


def named(trainer: CachedSeq2SeqTrainer) -> dict[str, Any]:
    """What the scores of summaries depend on; it is written beside them."""
    if not isinstance(metrics := trainer.compute_metrics, SummaryMetrics):
        return {}
    return metrics.settings | generation_settings(trainer.model, trainer.args)


def predict(trainer: CachedSeq2SeqTrainer, documents: Dataset, arguments: Arguments) -> None:
    """Predict the test documents; their summaries, if they are generated, are written, and some are printed."""
    result = trainer.predict(documents, metric_key_prefix="predict")
    metrics = result.metrics | {"predict_samples": len(documents)} | named(trainer)
    if isinstance(summaries := trainer.compute_metrics, SummaryMetrics):
        bounds = intervals([one.scores for one in summaries.scored])
        metrics |= {f"predict_{name}": value for name, value in bounds.items()}
        if trainer.is_world_process_zero():
            ids = documents["id"] if "id" in documents.column_names else range(len(documents))
            write_predictions(Path(str(trainer.args.output_dir)), ids, summaries.scored)
            show(summaries.scored[: arguments.model.num_samples], documents)
    if arguments.model.attribution:
        write_attribution(trainer, documents, result.predictions, occlusion=arguments.model.attribution == "occlusion")
    save_metrics(trainer, "predict", metrics)


def write_predictions(folder: Path, ids: Sequence[Any], scored: Sequence[Scored]) -> None:
    """Write `generated_predictions.txt`, a line each, and `predictions.jsonl` with references and scores."""
    lines = [" ".join(one.prediction.split()) for one in scored]
    (folder / "generated_predictions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    records = [{"id": name} | dataclasses.asdict(one) for name, one in zip(ids, scored, strict=True)]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "predictions.jsonl").write_text(text, encoding="utf-8")


def write_attribution(trainer: CachedSeq2SeqTrainer, documents: Dataset, predictions: Any, *, occlusion: bool) -> None:
    """Write `attribution.jsonl`: where the sentences of all predicted summaries come from."""
    tokenizer: Any = trainer.processing_class
    records = attribute_predictions(trainer.model, documents, predictions, tokenizer=tokenizer, occlusion=occlusion)
    if trainer.is_world_process_zero():
        write_records(Path(str(trainer.args.output_dir)) / RECORDS, records)


def show(scored: Sequence[Scored], documents: Dataset) -> None:
    """Print summaries beside their references."""
    for number, one in enumerate(scored):
        length, summary = documents[number]["length"], " ".join(one.prediction.split())
        print(f"\ndocument {number} ({length:,} tokens)\n  reference: {one.reference}\n  summary:   {summary}")


def save_metrics(trainer: CachedSeq2SeqTrainer, split: str, metrics: dict[str, Any]) -> None:
    """Log the metrics, and write them to `{split}_results.json` and `all_results.json`."""
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)


if __name__ == "__main__":
    main(sys.argv[1:])
