"""Autocast: the mixed-precision state of a forward, entered again when a pass is recomputed in backward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Autocast:
    """What `torch.autocast` was doing on one type of device."""

    device_type: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def current(cls, device: torch.device) -> Autocast:
        """The state in force now."""
        return cls(device.type, torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type))

    def again(self) -> torch.autocast:
        """A context with the same state; weights cast once serve all passes inside it."""
        return torch.autocast(self.device_type, enabled=self.enabled, dtype=self.dtype)

    def off(self) -> torch.autocast:
        """A context that leaves precision alone, for tensors that `cast` has brought into theirs."""
        return torch.autocast(self.device_type, enabled=False)

    def cast(self, tensor: Tensor) -> Tensor:
        """`tensor` as a matrix product in this state would take it; a cast that autocast does not remember."""
        return tensor.to(self.dtype) if self.enabled and tensor.dtype != torch.float64 else tensor
