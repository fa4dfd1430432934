"""Versions: the releases of other libraries that cached_ds was tested with, from the oldest to the newest.

`make compat` runs the tests under both ends (tests/versions/), and pyproject.toml asks for the oldest. Under an older
release `attach` refuses to work, under a newer one it warns. Names that these libraries do not promise to keep are
looked up here as well, so that a release without one is told apart from a mistake in this package.
"""

from __future__ import annotations

import functools
import logging
import pkgutil
from importlib import metadata

from packaging.version import Version

# Oldest and newest. Patches of the newest minor release count as tested.
TESTED = {
    "accelerate": ("1.15.0", "1.15.0"),
    "torch": ("2.13.0", "2.14.1"),
    "transformers": ("5.23.0", "5.24.0"),
}
# Names that may go without notice; docs/design.md lists all that are borrowed.
BORROWED = (
    "torch:_foreach_add_",
    "torch._C:_will_engine_execute_node",
    "torch._C:_autograd._get_current_graph_task_keep_graph",
    "torch.ops:aten._scaled_dot_product_flash_attention_for_cpu",
    "torch.ops:aten._scaled_dot_product_flash_attention_for_cpu_backward",
    "transformers.masking_utils:create_bidirectional_mask",
)

logger = logging.getLogger(__name__)


class UnsupportedVersion(ImportError):
    """A library is too old, or lacks a name that cached_ds borrows; the message is one sentence for the user."""


def refusal(library: str, version: str) -> str | None:
    """Why this release of a library is refused; None: it is not too old."""
    oldest = TESTED[library][0]
    if Version(version).release >= Version(oldest).release:
        return None
    return f"cached_ds needs {library} {oldest} or newer, not {version}: pip install --upgrade '{library}>={oldest}'"


def warning(library: str, version: str) -> str | None:
    """What to say of a release that is newer than all tested ones; None: it is not."""
    oldest, newest = TESTED[library]
    if Version(version).release[:2] <= Version(newest).release[:2]:
        return None
    return f"cached_ds is untested with {library} {version}; tested are {oldest} to {newest}"


@functools.cache
def check_versions() -> None:
    """Refuse libraries that are too old, and warn of those that are too new to be tested; once per process.

    Raises:
        UnsupportedVersion: one is too old, or lacks a name that cached_ds borrows.
    """
    installed = {library: metadata.version(library) for library in TESTED}
    if refused := [sentence for item in installed.items() if (sentence := refusal(*item))]:
        raise UnsupportedVersion("; ".join(refused))
    if told := [sentence for item in installed.items() if (sentence := warning(*item))]:
        logger.warning("%s", "; ".join(told))
    for name in BORROWED:
        _look_up(name)


def _look_up(name: str) -> None:
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError) as error:
        library = name.split(".")[0].split(":")[0]
        oldest, newest = TESTED[library]
        raise UnsupportedVersion(
            f"{library} {metadata.version(library)} has no {name.replace(':', '.')}, which cached_ds needs; tested are "
            f"{oldest} to {newest}: pip install '{library}=={newest}'"
        ) from error
