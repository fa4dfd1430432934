"""Random streams: each pass draws its dropout from a stream of its own, which can be run again.

A forward takes one seed S; the pass whose first window has number i runs with the generators of the CPU and of its
device seeded with S + i, and the generators are put back afterwards. So a recomputed pass drops the same units as the
first one, whatever ran between; and the caller's own random numbers do not depend on the number of windows.

The seed is drawn from torch's CPU generator. If no pass drew a random number (no dropout, or evaluation), the
generator is put back as if nothing had happened; otherwise a forward costs the caller exactly one draw.
Source: design 2.1; GradCache stores generator states per chunk instead, which grows with the document.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SEED_LIMIT = 2**62


class RandomStreams:
    """The random streams of one forward; `with streams.stream(i):` runs the i-th, as often as it is asked for."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        """Take the seed, or draw one from torch's CPU generator."""
        self.device = device
        self.used = False
        self._before = torch.get_rng_state()
        self.seed = int(torch.randint(SEED_LIMIT, ())) if seed is None else seed

    @contextmanager
    def stream(self, index: int, mark: Tensor | None = None) -> Iterator[None]:
        """Run the block with the generators of stream `index`, from its start or a mark; put the caller's back."""
        with torch.random.fork_rng(devices=self._devices(), device_type=self._device_type()):
            if mark is None:
                self._seed_generators(self.seed + index)
            else:
                self._set(mark)
            start = self.mark()
            yield
            self.used = self.used or not torch.equal(start, self.mark())

    def settle(self) -> None:
        """After the forward: take the draw of the seed back if no pass used its stream."""
        if not self.used:
            torch.set_rng_state(self._before)

    def _devices(self) -> list[torch.device]:
        return [] if self.device.type == "cpu" else [self.device]

    def _device_type(self) -> str:
        return "cuda" if self.device.type == "cpu" else self.device.type

    def _seed_generators(self, seed: int) -> None:
        torch.default_generator.manual_seed(seed)
        for device in self._devices():
            module = torch.get_device_module(device)
            with module.device(device):
                module.manual_seed(seed)

    def _set(self, mark: Tensor) -> None:
        size = len(torch.get_rng_state())
        torch.set_rng_state(mark[:size])
        for device in self._devices():
            torch.get_device_module(device).set_rng_state(mark[size:], device)

    def mark(self) -> Tensor:
        """Where the stream in force stands, on the host; reading a CUDA generator does not wait for the device."""
        states = [torch.get_rng_state()]
        states += [torch.get_device_module(device).get_rng_state(device) for device in self._devices()]
        return torch.cat(states)
