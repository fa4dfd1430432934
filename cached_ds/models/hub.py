"""Hub: whether a model can be had, asked once and before any work.

Problem. transformers asks a hub that cannot be reached again and again, for most of a minute, and then says so in many
lines.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

FILES = ("config.json", "tokenizer_config.json")  # one of them is in every model's and tokenizer's repository
SECONDS = 10.0
REASON = 200  # characters
# The last is the HTTP library's own, whichever library that is.
NOT_FOUND: tuple[type[BaseException], ...] = (OSError, ValueError, HfHubHTTPError.__bases__[0])


def check_source(
    name: str, *, flag: str, cache_dir: str | None = None, revision: str | None = None, token: str | None = None
) -> None:
    """Refuse a model or tokenizer that is no folder, is not in the hub's cache, and that no hub gives.

    Args:
        name: of a folder, or on the hub.
        flag: that it was given by, without dashes.
        cache_dir: of the hub; None: its own.
        revision: branch, tag or commit; None: main.
        token: access token of the hub; None: that of `hf auth login`.

    Raises:
        ValueError: it can be had nowhere; the message says why.
    """
    if name and Path(name).is_dir():
        return
    try:
        if not any(isinstance(try_to_load_from_cache(name, file, cache_dir, revision), str) for file in FILES):
            HfApi(token=token).model_info(name, revision=revision, timeout=SECONDS)
    except NOT_FOUND as error:
        reason = " ".join(str(error).split())[:REASON]
        raise ValueError(
            f"--{flag} {name}: no such folder, and no hub gives a model of this name ({reason}); allowed is a folder "
            "that save_pretrained wrote, or a model's name on a hub that can be reached"
        ) from error
