"""The shapes of all tensors that are made while it is entered, views of no memory apart."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class SeenShapes(TorchDispatchMode):
    """Notes the shapes of all results."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            dense = isinstance(tensor, torch.Tensor) and not tensor.is_sparse
            if dense and tensor.untyped_storage().nbytes() > 1:
                self.seen.add(tuple(tensor.shape))
        return result

    def holding(self, *sizes):
        """Those shapes that have all of these sizes."""
        return [shape for shape in self.seen if all(size in shape for size in sizes)]
