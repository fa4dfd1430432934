"""Lockstep: the ranks of a document group read the same documents, with the same random numbers.

The decoder runs on every rank of a group, and has to run alike: the same dropout, the same layers dropped. So at each
reading all ranks take over the generators of their first rank, in one small collective (5 KB a rank), which also tells
whether they were given the same documents: a data loader that deals documents to single ranks would otherwise train on
mixtures of them, in silence.
"""

from __future__ import annotations

import hashlib

import torch

from cached_ds.document_parallel.mesh import DocumentGroup
from cached_ds.replay.rng import generator_state, set_generator_state

DIGEST = 16  # bytes


def fall_in_step(group: DocumentGroup, documents: bytes, device: torch.device) -> None:
    """Compare the documents of all ranks of the group, and take over the generators of its first rank.

    Args:
        group: the ranks.
        documents: all that says what this rank was given to read.
        device: whose generator goes with that of the CPU.

    Raises:
        ValueError: the ranks were given different documents; all of them raise it.
    """
    digest = hashlib.blake2b(documents, digest_size=DIGEST).digest()
    own = torch.cat([torch.frombuffer(bytearray(digest), dtype=torch.uint8), generator_state(device)])
    found = group.gather(own.to(device)).cpu()
    if (found[:, :DIGEST] != found[0, :DIGEST]).any():
        raise ValueError(
            f"document_parallel={group.size}: the ranks of a document group were given different documents; deal "
            'batches to the groups, by the axis "data" of cached_ds.document_parallel.mesh.document_mesh'
            f"({group.size})"
        )
    set_generator_state(found[0, DIGEST:].clone(), device)  # generators want a tensor that begins at its storage
