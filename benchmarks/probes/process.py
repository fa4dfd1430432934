"""Resident memory, bytes of H and G and of what the decoder saves, seconds of the encoder: inside one process.

Each is the same for every variant, and hangs on the model's own modules from outside.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MIB = 2**20


def resident(what: str = "VmRSS") -> int:
    """Resident bytes of this process now (VmRSS) or at most since `reset_peak` (VmHWM); allocated ones (VmData)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:"))


def reset_peak() -> None:
    """Let VmHWM start anew from what is resident now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


class SavedBytes:
    """Bytes that the decoder keeps for backward, after its forward and before the loss.

    Counted are distinct storages, once each:
      - what autograd saves while the decoder runs (hooks see every saved tensor, of C++ and of Python functions);
      - what Python objects hold at its end and did not at its beginning (inputs of checkpointed layers);
      - H itself, and whatever else of at least H's size came to life since the step began, wherever it is held.
    Parameters, gradients and the batch are not counted.
    """

    def __init__(self, model: Any, batch: dict[str, Tensor]) -> None:
        """Watch the decoder of `model` during a step of `batch`."""
        self.bytes = 0
        self.ours = _storages([*model.parameters(), *model.buffers(), *batch.values()])
        self.size_of_states = batch["input_ids"].numel() * model.config.d_model * model.dtype.itemsize
        self.before_step = _storages(_alive())
        decoder: nn.Module = model.get_decoder()
        self.handles = [
            decoder.register_forward_pre_hook(lambda *_: self._enter()),
            decoder.register_forward_hook(lambda *_: self._leave()),
        ]

    def _enter(self) -> None:
        self.before_decoder = _storages(_alive())
        self.saved: dict[int, int] = {}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self.hooks.__enter__()

    def _pack(self, tensor: Tensor) -> Tensor:
        self.saved |= _storages([tensor])
        return tensor

    def _leave(self) -> None:
        self.hooks.__exit__(None, None, None)
        for key, size in _storages(_alive()).items():
            large = size >= self.size_of_states and key not in self.before_step
            if large or key not in self.before_decoder:
                self.saved[key] = size
        self.bytes = sum(size for key, size in self.saved.items() if key not in self.ours)

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()


class HeldStates:
    """Bytes of H, as an attached encoder returns it, and of its gradient G, as backward hands it to the encoder."""

    def __init__(self, encoder: nn.Module) -> None:
        """Watch `encoder`, whose forward returns one tensor."""
        self.states = self.gradient = 0
        self.handle = encoder.register_forward_hook(self._after_forward)

    def _after_forward(self, encoder: nn.Module, args: Any, states: Tensor) -> None:  # noqa: ARG002 (a torch hook)
        self.states = states.untyped_storage().nbytes()
        node: Any = states.grad_fn
        node.register_prehook(self._before_backward)

    def _before_backward(self, gradients: tuple[Tensor, ...]) -> None:
        self.gradient = gradients[0].untyped_storage().nbytes()


class EncoderSeconds:
    """Time inside an attached encoder: its forward, and its node of the graph in backward."""

    def __init__(self, encoder: nn.Module) -> None:
        """Watch `encoder`, whose forward returns one tensor."""
        self.forward = self.backward = self.began = 0.0
        self.handles = [
            encoder.register_forward_pre_hook(lambda *_: self._begin()),
            encoder.register_forward_hook(self._after_forward),
        ]

    def _begin(self) -> None:
        self.began = time.perf_counter()

    def _after_forward(self, encoder: nn.Module, args: Any, states: Tensor) -> None:  # noqa: ARG002 (a torch hook)
        self.forward += time.perf_counter() - self.began
        node: Any = states.grad_fn
        node.register_prehook(lambda *_: self._begin())
        node.register_hook(lambda *_: self._after_backward())

    def _after_backward(self) -> None:
        self.backward += time.perf_counter() - self.began

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()


def _alive() -> list[Tensor]:
    gc.collect()
    return [each for each in gc.get_objects() if issubclass(type(each), Tensor) and each.layout == torch.strided]


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Where each distinct storage lies -> its bytes."""
    return {_key(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
