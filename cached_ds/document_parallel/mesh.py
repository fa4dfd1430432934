"""Mesh: which ranks read a document together.

All ranks form a mesh (data, document): rank r is number r % P of document group r // P, so that the ranks of a group
are neighbours, on one host wherever they can be. Each group reads other documents, as each rank does without groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

AXES = ("data", "document")
_MESHES: WeakKeyDictionary[dist.ProcessGroup, dict[int, DeviceMesh]] = WeakKeyDictionary()


@dataclass(frozen=True)
class DocumentGroup:
    """The ranks that read a document together, as one of them sees them; models that know one can be copied.

    Attributes:
        size: their number, P.
        rank: of this one, in [0, P).
    """

    size: int
    rank: int

    @property
    def processes(self) -> dist.ProcessGroup:
        """Torch's process group of these ranks."""
        return document_mesh(self.size).get_group("document")

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors [P, ...] of all ranks, in order; each gives one of the same shape. One collective."""
        gathered = tensor.new_empty(self.size * tensor.numel())
        dist.all_gather_single(gathered, tensor.contiguous().view(-1), group=self.processes)
        return gathered.view(self.size, *tensor.shape)

    def start_sum_(self, tensor: Tensor) -> dist.Work:
        """Begin to add up the tensors of all ranks, in place and alike on all; `wait` ends it. One collective."""
        return dist.all_reduce(tensor, group=self.processes, async_op=True)


def document_mesh(size: int) -> DeviceMesh:
    """The mesh (data, document) of all ranks, `size` of which read a document together; made once, by all ranks.

    A data loader deals documents to `mesh["data"]`: ranks with the same place there get the same batch.

    Raises:
        ValueError: torch.distributed is not initialised, or the number of ranks is not a multiple of `size`.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            f"document_parallel={size} is refused; allowed is 1 where torch.distributed is not initialised: start "
            "several ranks by a launcher, and call torch.distributed.init_process_group before attach"
        )
    num_ranks = dist.get_world_size()
    check_group_size(size, num_ranks)
    meshes = _MESHES.setdefault(dist.group.WORLD, {})  # type: ignore[arg-type]
    if size not in meshes:
        kind = "cuda" if "nccl" in dist.get_backend() else "cpu"
        meshes[size] = init_device_mesh(kind, (num_ranks // size, size), mesh_dim_names=AXES)
    return meshes[size]


def check_group_size(size: int, num_ranks: int) -> None:
    """Refuse groups of `size` that some ranks would be left without.

    Raises:
        ValueError: the number of ranks is not a multiple of `size`.
    """
    if num_ranks % size:
        raise ValueError(
            f"document_parallel={size} is refused; allowed is a divisor of the number of ranks, {num_ranks}"
        )


def document_group(size: int) -> DocumentGroup | None:
    """The group of this rank; None where a rank reads its documents alone.

    Raises:
        ValueError: what `document_mesh` refuses.
    """
    if size == 1:
        return None
    return DocumentGroup(size, document_mesh(size).get_local_rank("document"))
