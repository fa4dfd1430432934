"""Document groups: a Trainer's batches are dealt to groups of ranks, where the ranks of a group share its documents.

accelerate deals a batch to each rank and gathers a prediction from each. With `document_parallel=P` the P ranks of a
group are one reader: all get the same batch, and what they predict is the same and counts once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.operations import recursively_apply
from torch import Tensor, nn

from cached_ds.attachment import windowed_encoder


def ranks_per_document(model: nn.Module) -> int:
    """How many ranks share a document, P, for an attached model."""
    return windowed_encoder(model)._cached_ds.config.document_parallel


def deal_to_groups(accelerator: Any, model: nn.Module) -> None:
    """Let an accelerator deal batches to the groups of an attached model, in place; to ranks, where each is alone."""
    if (size := ranks_per_document(model)) > 1:
        accelerator.__class__, accelerator.group_size = _GroupAccelerator, size


class _GroupAccelerator(Accelerator):
    """An accelerator to which, where data is dealt and predictions are gathered, a group is one process."""

    group_size: int
    _sees_groups = False

    @contextmanager
    def _groups(self) -> Iterator[None]:
        self._sees_groups = True
        try:
            yield
        finally:
            self._sees_groups = False

    @property
    def num_processes(self) -> int:
        """Of ranks, or of groups while data is dealt."""
        return super().num_processes // (self.group_size if self._sees_groups else 1)

    @property
    def process_index(self) -> int:
        """Of this rank, or of its group while data is dealt."""
        return super().process_index // (self.group_size if self._sees_groups else 1)

    def prepare_data_loader(self, *args: Any, **kwargs: Any) -> Any:
        """Accelerate's, for groups."""
        with self._groups():
            return super().prepare_data_loader(*args, **kwargs)

    def gather(self, tensor: Any) -> Any:
        """Accelerate's; while predictions are gathered, those [B, ...] of each group's first rank."""
        found = super().gather(tensor)
        return recursively_apply(self._of_first_ranks, found) if self._sees_groups else found

    def gather_for_metrics(self, input_data: Any, *, use_gather_object: bool = False) -> Any:
        """Accelerate's, for groups.

        Raises:
            ValueError: objects are to be gathered.
        """
        if use_gather_object:
            raise ValueError(
                f"eval_use_gather_object=True is refused with document_parallel={self.group_size}; allowed is False: "
                "what the ranks of a group predict would count more than once"
            )
        with self._groups():
            return super().gather_for_metrics(input_data)

    def _of_first_ranks(self, gathered: Tensor) -> Tensor:
        """The rows that the first ranks of the groups gave, of those [ranks * B, ...] of all ranks in order."""
        of_ranks = gathered.unflatten(0, (torch.distributed.get_world_size(), -1))
        return of_ranks[:: self.group_size].flatten(0, 1)
