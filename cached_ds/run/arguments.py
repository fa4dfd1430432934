"""Arguments: all settings of one training run, by flags or by a YAML or JSON recipe, as typed dataclasses.

train.py --config_name tiny-bart --dataset_name pysource --do_train ...
train.py recipe.yaml --max_steps 10                      a recipe first; flags after it win
train.py --deepspeed ds.json ...                         transformers' spelling
train.py --deepspeed --deepspeed_config ds.json ...      DeepSpeed's spelling
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, Seq2SeqTrainingArguments

from cached_ds.data import DataArguments
from cached_ds.data.arguments import flag
from cached_ds.document_parallel.mesh import check_group_size
from cached_ds.evaluation.bertscore import BERTSCORES
from cached_ds.evaluation.metrics import metric_names
from cached_ds.evaluation.rouge import ROUGE_TYPES
from cached_ds.evaluation.sentences import SENTENCES
from cached_ds.evaluation.words import TOKENIZERS
from cached_ds.guards.trainer import MAX_SKIPPED_STEPS
from cached_ds.models.shapes import family_name, is_shape
from cached_ds.run.flags import normalise, value_of
from cached_ds.run.training_checks import check_flags, check_metric, check_training
from cached_ds.settings.config import CachedConfig
from cached_ds.settings.extras import MissingExtra
from cached_ds.settings.unknown_names import CARELESS

WAYS = ("attention", "occlusion")  # of attribution


@dataclass(kw_only=True)
class ModelArguments:
    """Which model to train, and how it generates."""

    model_name_or_path: str | None = flag("A pretrained model: a folder, or a name on the Hugging Face hub.")
    config_name: str | None = flag(
        "A model without pretrained weights: a built-in shape such as tiny-bart or base-t5, a folder, or a hub name."
    )
    tokenizer_name: str | None = flag("A tokenizer. Default: the model's, or one trained on the training text.")
    cache_dir: str | None = flag("Where models and tokenizers of the hub are kept. Default: the hub's own cache.")
    model_revision: str = flag("Which version of a model on the hub: a branch, a tag or a commit.", default="main")
    token: str | None = flag("Access token of the hub. Default: that of `hf auth login`.")
    vocab_size: int = flag("Size of the vocabulary of a tokenizer trained on the training text.", default=8192)
    num_beams: int | None = flag("Beams of generation in evaluation and prediction. Default: the model's own.")
    rouge_tokenizer: str = flag(
        "How ROUGE cuts texts into words: english (rouge-score's own, with stems) or unicode (every script).",
        default="english",
    )
    rouge_sentences: str = flag(
        "How ROUGE-Lsum cuts texts into sentences: rule (needs no data) or punkt (NLTK's, if its data is installed).",
        default="rule",
    )
    bertscore_model: str | None = flag(
        "Also compute BERTScore, by this model: a folder, or a name on the hub. Default: no BERTScore."
    )
    bertscore_num_layers: int | None = flag(
        "The layer of that model whose states are compared. Default: the one that bert-score knows for its name."
    )
    num_samples: int = flag("Show this many generated summaries at the end.", default=3)
    attribution: str | None = flag(
        "Write where each sentence of the predicted summaries comes from: attention, or occlusion, which checks it too."
    )

    def from_hub(self) -> dict[str, str | None]:
        """What `from_pretrained` has to know of the hub."""
        return {"cache_dir": self.cache_dir, "revision": self.model_revision, "token": self.token}

    @property
    def score_names(self) -> list[Sequence[str]]:
        """Of the scorers that are asked for."""
        return [ROUGE_TYPES, *([BERTSCORES] if self.bertscore_model else [])]

    def __post_init__(self) -> None:
        """Refuse arguments that name no model or two, and numbers out of range."""
        if (self.model_name_or_path is None) == (self.config_name is None):
            raise ValueError("give either --model_name_or_path (pretrained) or --config_name (random weights)")
        if self.config_name is not None and is_shape(self.config_name):
            family_name(self.config_name)
        for name, allowed in (("rouge_tokenizer", TOKENIZERS), ("rouge_sentences", SENTENCES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"--{name} {getattr(self, name)} is refused; allowed is {' or '.join(allowed)}")
        if self.bertscore_num_layers is not None and self.bertscore_model is None:
            raise ValueError("--bertscore_num_layers needs --bertscore_model, whose layer it is")
        if self.attribution not in (None, *WAYS):
            raise ValueError(f"--attribution {self.attribution} is refused; allowed is {' or '.join(WAYS)}")
        for name, value, low in (
            ("vocab_size", self.vocab_size, 300),
            ("num_beams", 1 if self.num_beams is None else self.num_beams, 1),
            ("num_samples", self.num_samples, 0),
        ):
            if value < low:
                raise ValueError(f"--{name} {value} is refused; allowed is a number >= {low}")


@dataclass(kw_only=True)
class GuardArguments:
    """What a run puts up with before it ends."""

    max_skipped_steps: int = flag(
        "So many steps in a row may be skipped because loss or gradient is not finite; one more ends the run.",
        default=MAX_SKIPPED_STEPS,
    )

    def __post_init__(self) -> None:
        """Refuse a negative number."""
        if self.max_skipped_steps < 0:
            raise ValueError(f"--max_skipped_steps {self.max_skipped_steps} is refused; allowed is a number >= 0")


@dataclass(kw_only=True)
class WatchArguments:
    """When a run that stands still is ended."""

    step_timeout: float | None = flag(
        "Seconds after which a training run that does not move is ended, and the rank at fault named; 0: never. "
        "Default: nine tenths of --ddp_timeout, so that it comes before collectives fail."
    )


def _command_line_type(config_field: dataclasses.Field[Any]) -> Any:
    """The type of a field as a flag: text for a field of several types, in which `CachedConfig` reads numbers."""
    types = {"int": int, "int | None": int | None, "bool": bool, "bool | None": bool | None}
    return types.get(str(config_field.type), str)


# The fields of CachedConfig as flags of the same names; its `seed` is drawn from the generator that --seed seeds.
CachedArguments = dataclasses.make_dataclass(
    "CachedArguments",
    [
        (f.name, _command_line_type(f), flag(f.metadata["help"], default=f.default))
        for f in dataclasses.fields(CachedConfig)
        if f.name != "seed"
    ],
)


@dataclass(frozen=True)
class Arguments:
    """All settings of one run."""

    model: ModelArguments
    data: DataArguments
    cached: CachedConfig
    guards: GuardArguments
    training: Seq2SeqTrainingArguments
    watch: WatchArguments

    @property
    def step_timeout(self) -> float:
        """Seconds without any movement after which training is ended; 0: it never is."""
        given = self.watch.step_timeout
        return 0.9 * self.training.ddp_timeout if given is None else given


class _Parser(HfArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise one sentence, instead of printing the usage of all flags."""
        raise ValueError(message)


@functools.cache  # it is asked for three times per command line, and never changed
def _parser() -> _Parser:
    groups: Any = (
        ModelArguments, DataArguments, CachedArguments, GuardArguments, Seq2SeqTrainingArguments, WatchArguments,
    )  # fmt: skip
    return _Parser(groups, allow_abbrev=False)


def read_flags(argv: Sequence[str]) -> list[str]:
    """The command line as flags in one spelling, with a leading recipe opened; their values are not checked.

    Raises:
        ValueError: what `normalise` refuses.
    """
    return normalise(argv, {name: action for action in _parser()._actions for name in action.option_strings})


def parse(argv: Sequence[str]) -> Arguments:
    """Read the command line, and fill in what follows from it.

    `--use_cpu` is added where there is no accelerator; beams and length of generation come from `--num_beams` and the
    target lengths; the keys of a DeepSpeed file are checked.

    Raises:
        ValueError: an unknown flag or recipe key (with the nearest known one), a value that is not allowed, a missing
            file, keys that DeepSpeed does not know, groups that leave ranks out, an attribution of nothing.
    """
    flags = read_flags(argv)
    if (given := value_of(flags, "--deepspeed")) is not None:
        from cached_ds.settings import deepspeed_config  # imports DeepSpeed, which other runs need not have

        deepspeed_config.load_given(given)
    if not torch.accelerator.is_available():
        flags.append("--use_cpu")  # without it every rank on such a machine takes itself to be alone
    check_flags(vars(_parser().parse_args(flags)))
    model, data, fields, guards, training, watch = _made(flags)
    cached = CachedConfig.from_dict(vars(fields))
    check_training(training)
    check_group_size(cached.document_parallel, training.world_size)
    if data.keep_prefix and cached.overlap:
        raise ValueError(f"--overlap {cached.overlap} with --keep_prefix is refused; allowed is 0")
    check_metric(
        training, metric_names(model.score_names, facts=data.is_keyfacts) if training.predict_with_generate else []
    )
    if model.attribution:
        _check_attribution(cached, training)
    training.prediction_loss_only |= not training.predict_with_generate  # nobody reads all documents' logits
    training.generation_num_beams = model.num_beams or training.generation_num_beams
    training.generation_max_length = (
        training.generation_max_length or data.val_max_target_length or data.max_target_length
    )
    return Arguments(model, data, cached, guards, training, watch)


def _check_attribution(cached: CachedConfig, training: Seq2SeqTrainingArguments) -> None:
    if not (training.do_predict and training.predict_with_generate):
        raise ValueError("--attribution: it is of predicted summaries; add --do_predict and --predict_with_generate")
    if not cached.stream_cross_attention:
        raise ValueError("--attribution: it is weighed tile by tile, and needs --stream_cross_attention true")
    if cached.document_parallel > 1:
        raise ValueError("--attribution: it is weighed by one rank, and needs --document_parallel 1")


def _made(flags: Sequence[str]) -> tuple[Any, ...]:
    """The dataclasses; transformers and accelerate check their values with whatever comes to hand."""
    try:
        made: tuple[Any, ...] = _parser().parse_args_into_dataclasses(list(flags))
    except (ValueError, MissingExtra):
        raise
    except CARELESS as error:
        raise ValueError(f"the flags are refused: {error}") from error
    return made
