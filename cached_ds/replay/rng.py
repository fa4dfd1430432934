"""Random numbers that can be drawn again: every pass (or tile) has a stream of its own.

A forward takes one seed S. The pass whose first window has number i runs with the generators of the CPU and of its
device seeded with S + i; afterwards the caller's generators are put back. A recomputed pass therefore drops the same
units as the first time, whatever ran in between, and the caller's own random numbers do not depend on the number of
windows.

The seed is drawn from torch's CPU generator. If no pass drew a random number (no dropout, or evaluation), the generator
is put back as if nothing had happened; otherwise a forward costs the caller exactly one draw.

GradCache stores generator states for each chunk instead; their number grows with the document.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SEED_BOUND = 2**62  # of a drawn S: S + i must stay below 2**63, the limit of a generator


class ReplayRng:
    """The random streams of one forward; `with rng.fork(i):` runs a block with the i-th, as often as needed."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        """Take the seed, or draw one from torch's CPU generator."""
        self.device = device
        self.used = False
        self._before = torch.get_rng_state()
        self.seed = int(torch.randint(SEED_BOUND, ())) if seed is None else seed

    @contextmanager
    def fork(self, index: int, *, state: Tensor | None = None) -> Iterator[None]:
        """Run the block with the generators of stream `index`, and put the caller's generators back.

        Args:
            index: the stream.
            state: where in the stream to begin, as `state` returns it; None: at its start.
        """
        with torch.random.fork_rng(devices=self._devices(), device_type=self._device_type()):
            if state is None:
                self._seed_generators(self.seed + index)
            else:
                set_generator_state(state, self.device)
            start = self.state()
            yield
            self.used = self.used or not torch.equal(start, self.state())

    def state(self) -> Tensor:
        """The generators' state now, on the host; reading a CUDA generator does not wait for the device."""
        return generator_state(self.device)

    def settle(self) -> None:
        """Take the draw of the seed back if no pass used its stream; call it after the forward."""
        if not self.used:
            torch.set_rng_state(self._before)

    def _devices(self) -> list[torch.device]:
        return _with_generator(self.device)

    def _device_type(self) -> str:
        return "cuda" if self.device.type == "cpu" else self.device.type

    def _seed_generators(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)
        for device in self._devices():
            module = torch.get_device_module(device)
            with module.device(device):
                module.manual_seed(seed)


def generator_state(device: torch.device) -> Tensor:
    """The states [n] of the generators of the CPU and of a device, one after the other, on the host."""
    states = [torch.get_rng_state()]
    states += [torch.get_device_module(each).get_rng_state(each) for each in _with_generator(device)]
    return torch.cat(states)


def set_generator_state(state: Tensor, device: torch.device) -> None:
    """Put the generators into the state that `generator_state` returned."""
    size = len(torch.get_rng_state())
    torch.set_rng_state(state[:size])
    for each in _with_generator(device):
        torch.get_device_module(each).set_rng_state(state[size:], each)


def _with_generator(device: torch.device) -> list[torch.device]:
    """The device, if its generator is another than the CPU's."""
    return [] if device.type == "cpu" else [device]
