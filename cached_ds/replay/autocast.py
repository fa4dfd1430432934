"""Autocast: the mixed-precision state of a forward, entered again when a pass is recomputed in backward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Autocast:
    """The state of `torch.autocast` for one type of device."""

    device_type: str
    enabled: bool
    dtype: torch.dtype

    @classmethod
    def current(cls, device: torch.device) -> Autocast:
        """The state in force now."""
        return cls(device.type, torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type))

    def again(self) -> torch.autocast:
        """A context with this state; inside it, autocast casts each weight once for all passes."""
        return torch.autocast(self.device_type, enabled=self.enabled, dtype=self.dtype)

    def off(self) -> torch.autocast:
        """A context without autocast, for tensors that `cast` has converted."""
        return torch.autocast(self.device_type, enabled=False)

    def cast(self, tensor: Tensor) -> Tensor:
        """`tensor` in the dtype that a matrix product has in this state; autocast's cache does not hold the result."""
        return tensor.to(self.dtype) if self.enabled and tensor.dtype != torch.float64 else tensor
