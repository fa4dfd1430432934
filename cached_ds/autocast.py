"""Autocast: the mixed-precision state of a forward, entered again when a pass is recomputed in backward."""

from __future__ import annotations

from dataclasses import dataclass

import torch


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
