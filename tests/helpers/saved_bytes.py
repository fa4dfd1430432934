"""What autograd saves for backward, in bytes of distinct storages."""

from __future__ import annotations

import torch


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts while it is entered; `storages` is address -> bytes."""

    def __init__(self):
        self.storages = {}
        super().__init__(self.note, lambda tensor: tensor)

    def __enter__(self):
        super().__enter__()
        return self

    def note(self, tensor):
        """Count the storage of this tensor too; returns the tensor."""
        storage = tensor.untyped_storage()
        self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def total(self, *, without=()):
        """Bytes of all storages but those of these tensors."""
        known = {tensor.untyped_storage().data_ptr() for tensor in without}
        return sum(size for address, size in self.storages.items() if address not in known)
