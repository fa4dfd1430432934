"""`CachedConfig`: how a document is cut into windows, and which windows are encoded a second time.

Each field carries its description (`metadata["help"]`), its bounds and a check; docs/configuration.md shows them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import convert_file_size_to_int

from cached_ds.settings.config_files import read_mapping
from cached_ds.settings.unknown_names import unknown

OFFLOADS = ("none", "cpu", "disk")
MIN_WINDOW = 4  # two frame tokens and some content
SEED_LIMIT = 2**63  # torch.Generator.manual_seed takes an int64


def _option(default: Any, *, help: str, allowed: str, check: Callable[[Any], bool]) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "allowed": allowed, "check": check})


def _boolean(default: bool, *, help: str) -> Any:
    return _option(default, help=help, allowed="True or False", check=lambda value: isinstance(value, bool))


def _whole(value: object, *, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _size(value: object) -> int:
    """Bytes; 0 for anything that is not a size."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return 0
    try:
        return convert_file_size_to_int(value)
    except ValueError:
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedConfig:
    """The settings of gradient caching: how a document is cut into windows, and which are encoded a second time.

    Frozen and keyword-only. Every value is checked when it is set; `windows_per_pass`, `recompute` and `memory_budget`
    may be numbers written as text.

    Raises:
        ValueError: a value that is not allowed (the message says which are), fields that contradict each other, or an
            unknown name (the message gives the nearest known one).
    """

    window: int = _option(
        1024,
        help="tokens per window, special tokens included; at most the encoder's own limit",
        allowed=f"an integer >= {MIN_WINDOW}",
        check=lambda value: _whole(value, low=MIN_WINDOW),
    )
    overlap: int = _option(
        0,
        help="context tokens on each side of a window that are encoded but not kept",
        allowed="an integer >= 0, less than half of window",
        check=lambda value: _whole(value, low=0),
    )
    frame_windows: bool = _boolean(
        True, help="give every window the document's first and last special tokens; False cuts the ids as they come"
    )
    schedule: str = _option(
        "window",
        help='"window": the whole encoder, window by window; "layer": layer by layer, never gathered whole',
        allowed='"window" or "layer"',
        check=lambda value: value in ("window", "layer"),
    )
    windows_per_pass: int | str | None = _option(
        None,
        help="windows that go through the encoder together; None: 1 on a CPU, on a GPU 32,768 tokens' worth if their "
        'graph fits into a quarter of its memory; "auto": as many as is fastest, timed in the first forward',
        allowed='None, an integer >= 1 or "auto"',
        check=lambda value: value in (None, "auto") or _whole(value, low=1),
    )
    recompute: int | str = _option(
        "all",
        help='"all" recomputes every pass except the one that backward begins with; a number keeps the graphs of that '
        'many passes; "auto": of as many as fit into memory',
        allowed='"all", "auto" or the number of passes kept, an integer >= 0',
        check=lambda value: value in ("all", "auto") or _whole(value, low=0),
    )
    memory_budget: int | str | None = _option(
        None,
        help='memory that "auto" may use on each rank, such as "8GiB"; None: what is free when it chooses',
        allowed='None or a size: bytes, or text such as "8GiB" or "500MB"',
        check=lambda value: value is None or _size(value) > 0,
    )
    sampled_windows: int | None = _option(
        None,
        help="windows drawn at random through which backward runs, for a faster step whose gradient is exact only in "
        "expectation; None: all windows, exact",
        allowed="None or an integer >= 1",
        check=lambda value: value is None or _whole(value, low=1),
    )
    compile: bool = _boolean(False, help="torch.compile the encoder's layers for full windows")
    stream_cross_attention: bool = _boolean(
        True, help="attend to the document tile by tile, keeping no keys and values; False: as Hugging Face does"
    )
    cross_cache: str = _option(
        "kv",
        help='what `generate` keeps of a document for all its beams: "kv" (keys and values of every layer), "none" '
        "(only the encoder's states: less memory by twice the number of layers)",
        allowed='"kv" or "none"',
        check=lambda value: value in ("kv", "none"),
    )
    tile: int | None = _option(
        None,
        help="source tokens whose keys and values exist at one time; None: 1,024 on a CPU, 65,536 on a GPU",
        allowed="None or an integer >= 1",
        check=lambda value: value is None or _whole(value, low=1),
    )
    global_first_token: bool | None = _option(
        None,
        help="LED: the first token of every window attends to all of it, the recipe of the Longformer paper; False: as "
        "the caller's global_attention_mask says; None: False, but True for LED on the command line",
        allowed="None, True or False",
        check=lambda value: value is None or isinstance(value, bool),
    )
    chunked_loss: bool = _boolean(
        True, help="compute the training loss in chunks, without logits; False: as Hugging Face does, logits included"
    )
    offload: str = _option(
        "none",
        help='where the encoder\'s states and their gradient live: "none" (the device), "cpu" (host memory), "disk"',
        allowed='"none", "cpu" or "disk"',
        check=lambda value: value in OFFLOADS,
    )
    offload_folder: str | None = _option(
        None,
        help='folder of the memory-mapped files of offload="disk"; None: the system\'s folder for temporary files',
        allowed="None or an existing folder",
        check=lambda value: value is None or (isinstance(value, str) and Path(value).is_dir()),
    )
    document_parallel: int = _option(
        1,
        help="ranks that read one document together, each its share of the windows; it divides the number of ranks",
        allowed="an integer >= 1",
        check=lambda value: _whole(value, low=1),
    )
    seed: int | None = _option(
        None,
        help="seed of the windows' random streams, the same masks in every forward; None: drawn at each forward",
        allowed="None or an integer in [0, 2**63)",
        check=lambda value: value is None or (_whole(value, low=0) and value < SEED_LIMIT),
    )

    def __new__(cls, **values: object) -> CachedConfig:
        """Refuse unknown names before the generated `__init__` sees them."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(unknown(name, known, kind="CachedConfig field"))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Turn numbers in text into numbers, check each field, then the fields together."""
        for name in ("windows_per_pass", "recompute", "memory_budget"):  # text on the command line
            value = getattr(self, name)
            if isinstance(value, str) and value.isdecimal():
                object.__setattr__(self, name, int(value))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not field.metadata["check"](value):
                raise ValueError(f"{field.name}={value!r} is refused; allowed is {field.metadata['allowed']}")
        self._check_together()

    def _check_together(self) -> None:
        needs_trial = {"windows_per_pass": "auto", "recompute": "auto", "compile": True}
        for name, value in needs_trial.items() if self.schedule == "layer" else ():
            if getattr(self, name) == value:
                raise ValueError(
                    f"{name}={value!r} is refused with schedule='layer'; allowed is what needs no trial "
                    'of the whole encoder: numbers, "all", False'
                )
        if self.sampled_windows is not None and self.schedule == "layer":
            raise ValueError(
                f"sampled_windows={self.sampled_windows} is refused with schedule='layer'; allowed is None: layer by "
                "layer, the windows' gradients are not apart"
            )
        if self.offload != "none" and not self.stream_cross_attention:
            raise ValueError(
                f"offload={self.offload!r} is refused with stream_cross_attention=False; allowed is True: "
                "only streamed attention reads states that are not on the device"
            )
        together = {"stream_cross_attention": True, "sampled_windows": None}
        for name, needed in together.items() if self.document_parallel > 1 else ():
            if getattr(self, name) != needed:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is refused with document_parallel={self.document_parallel}; "
                    f"allowed is {needed!r}"
                )
        if 2 * self.overlap >= self.window:
            raise ValueError(f"overlap={self.overlap} is refused; allowed is less than half of window={self.window}")

    @property
    def reading(self) -> dict[str, Any]:
        """The fields that decide what a document's states are; a model is used with those that it was trained with."""
        return {name: getattr(self, name) for name in ("window", "overlap", "frame_windows", "global_first_token")}

    @property
    def memory_bytes(self) -> int | None:
        """`memory_budget` in bytes."""
        return None if self.memory_budget is None else _size(self.memory_budget)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CachedConfig:
        """Build a config from names and values.

        Raises:
            ValueError: an unknown name, or a value that is not allowed.
        """
        return cls(**{str(name): value for name, value in values.items()})

    @classmethod
    def from_file(cls, path: str | Path) -> CachedConfig:
        """Build a config from a JSON or YAML file.

        Raises:
            ValueError: the file does not map fields to allowed values; the message names the file.
            OSError: the file cannot be read.
        """
        values = read_mapping(path)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Names and values, as `from_dict` takes them."""
        return dataclasses.asdict(self)
