"""`CachedConfig`: how a document is cut into windows, and which windows are encoded a second time.

Frozen and keyword-only. Each field carries its description (`metadata["help"]`) and its bounds, which are checked where
the value is set; an unknown name is refused together with the nearest known one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cached_ds.config_files import read_mapping
from cached_ds.names import unknown
from cached_ds.offload import PLACES

MIN_WINDOW = 4  # two frame tokens and some content
SEED_LIMIT = 2**63  # torch.Generator.manual_seed takes an int64


def _option(default: Any, *, help: str, allowed: str, check: Callable[[Any], bool]) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "allowed": allowed, "check": check})


def _whole(value: object, *, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedConfig:
    """The settings of gradient caching; `attach` takes one."""

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
    frame_windows: bool = _option(
        True,
        help="give every window the document's first and last special tokens; False cuts the ids as they come",
        allowed="True or False",
        check=lambda value: isinstance(value, bool),
    )
    windows_per_pass: int = _option(
        1,
        help="windows that go through the encoder together: more memory, fewer and larger kernels",
        allowed="an integer >= 1",
        check=lambda value: _whole(value, low=1),
    )
    recompute: int | str = _option(
        "all",
        help='"all" encodes every pass again in backward; a number keeps the graph of that many passes instead',
        allowed='"all" or the number of passes kept, an integer >= 0',
        check=lambda value: value == "all" or _whole(value, low=0),
    )
    stream_cross_attention: bool = _option(
        True,
        help="attend to the document tile by tile, so that keys and values are never kept; False: as Hugging Face does",
        allowed="True or False",
        check=lambda value: isinstance(value, bool),
    )
    offload: str = _option(
        "none",
        help='where the encoder\'s states and their gradient live: "none" (the device), "cpu" (host memory), "disk"',
        allowed='"none", "cpu" or "disk"',
        check=lambda value: value in PLACES,
    )
    offload_folder: str | None = _option(
        None,
        help='folder of the memory-mapped files of offload="disk"; None: the system\'s folder for temporary files',
        allowed="None or an existing folder",
        check=lambda value: value is None or (isinstance(value, str) and Path(value).is_dir()),
    )
    seed: int | None = _option(
        None,
        help="seed of the windows' random streams; None draws one from torch's generator at each forward",
        allowed="None or an integer in [0, 2**63)",
        check=lambda value: value is None or (_whole(value, low=0) and value < SEED_LIMIT),
    )

    def __new__(cls, **values: object) -> CachedConfig:
        """Refuse unknown names before the generated `__init__` meets them."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(unknown(name, known, kind="CachedConfig field"))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check every bound."""
        if isinstance(self.recompute, str) and self.recompute.isdecimal():
            object.__setattr__(self, "recompute", int(self.recompute))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not field.metadata["check"](value):
                raise ValueError(f"{field.name}={value!r} is refused; allowed is {field.metadata['allowed']}")
        if self.offload != "none" and not self.stream_cross_attention:
            raise ValueError(
                f"offload={self.offload!r} is refused with stream_cross_attention=False; allowed is True: "
                "only streamed attention reads states that are not on the device"
            )
        if 2 * self.overlap >= self.window:
            raise ValueError(f"overlap={self.overlap} is refused; allowed is less than half of window={self.window}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CachedConfig:
        """Build a config from names and values."""
        return cls(**{str(name): value for name, value in values.items()})

    @classmethod
    def from_file(cls, path: str | Path) -> CachedConfig:
        """Build a config from a JSON or YAML file."""
        values = read_mapping(path)
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return names and values, as `from_dict` takes them."""
        return dataclasses.asdict(self)
