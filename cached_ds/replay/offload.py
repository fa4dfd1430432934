"""Offload: large buffers in host memory or in a memory-mapped file, moved to and from the device slice by slice.

Problem. H and its gradient grow with the document, but only one slice of them is needed at a time.

Where a buffer may live (`CachedConfig.offload`):
  "none"  on the device itself; slices are views, nothing moves.
  "cpu"   in host memory, pinned where there is a device to copy to.
  "disk"  in a memory-mapped file whose name is removed at once, so that nothing is left behind, however the process
          ends. The pages of a slice are given back after its use, so resident memory does not grow with the document.

A `Conveyor` moves the slices. On a GPU it copies the next slice to the device on one stream, and results back on
another, while the current slice is in use. All conveyors of a device share these two streams. The host waits for
neither, except with "disk", whose memory a device cannot reach by itself. Where buffer and device share their memory
(the CPU), the same calls give views.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def empty(
    shape: Sequence[int], *, dtype: torch.dtype, device: torch.device, offload: str = "none", folder: str | None = None
) -> Tensor:
    """A buffer, where `offload` says; `folder` is where "disk" keeps its file (None: the system's).

    Raises:
        OSError: the folder does not exist, or its disk has not enough room.
    """
    if offload == "none":
        return torch.empty(shape, dtype=dtype, device=device)
    if offload == "cpu":
        return torch.empty(shape, dtype=dtype, pin_memory=device.type != "cpu")
    assert offload == "disk", offload
    return _mapped(shape, dtype, folder)


def empty_like(buffer: Tensor) -> Tensor:
    """A second buffer of the same shape, at the same location."""
    filename = buffer.untyped_storage().filename if buffer.device.type == "cpu" else None
    if filename is not None:
        return _mapped(buffer.shape, buffer.dtype, str(Path(filename).parent.parent))
    return torch.empty_like(buffer, pin_memory=buffer.is_pinned())


def zero_gaps_(rows: Tensor, spans: Sequence[slice]) -> None:
    """Zero those rows of a buffer [R, ...] that no span covers (padding); the others will be written."""
    end = 0
    for span in sorted(spans, key=lambda span: span.start):
        rows[end : max(end, span.start)].zero_()
        end = max(end, span.stop)
    rows[end:].zero_()


def _mapped(shape: Sequence[int], dtype: torch.dtype, folder: str | None) -> Tensor:
    """A mapped file.

    The file's blocks are reserved at once, so that a full disk is an error here and not a SIGBUS in mid-step.
    """
    size = torch.Size(shape).numel()
    with tempfile.TemporaryDirectory(prefix="cached_ds_", dir=folder) as name:
        path = Path(name, "buffer")
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, size * dtype.itemsize))
        return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(*shape)


class Conveyor:
    """Moves slices between buffers [R, ...] and one device, ahead of their use where the device has streams."""

    def __init__(self, device: torch.device) -> None:
        """Take the device, and the module of its streams if it has any."""
        self.device = device
        self.module: Any = None if device.type == "cpu" else torch.get_device_module(device)

    def load(self, buffer: Tensor, spans: Sequence[slice]) -> Iterator[Tensor]:
        """Yield `buffer[span]` on the device for every span, while the next one is being copied."""
        if self._is_here(buffer):
            for span in spans:
                yield buffer[span]
                _release(buffer[span])
            return
        ahead = self._fetch(buffer[spans[0]]) if spans else None
        for following in [*spans[1:], None]:
            assert ahead is not None
            part, arrived = ahead
            ahead = None if following is None else self._fetch(buffer[following])
            current = self.module.current_stream(self.device)
            current.wait_event(arrived)
            part.record_stream(current)
            yield part

    def store(self, values: Tensor, buffer: Tensor, span: slice) -> None:
        """Copy values on the device into `buffer[span]`."""
        if self._is_here(buffer):
            buffer[span].copy_(values)
            _release(buffer[span])
            return
        stream = self._follow("out")
        with self.module.stream(stream):
            buffer[span].copy_(values, non_blocking=buffer.is_pinned())
        values.record_stream(stream)
        _release(buffer[span])

    def finish(self) -> None:
        """Make the device's current stream wait for all copies under way."""
        if self.module is not None:
            for direction in ("in", "out"):
                self.module.current_stream(self.device).wait_stream(_copy_stream(self.device, direction))

    def _is_here(self, buffer: Tensor) -> bool:
        return buffer.device == self.device

    def _follow(self, direction: str) -> Any:
        """A copy stream, made to wait for everything that the device was given so far."""
        stream = _copy_stream(self.device, direction)
        stream.wait_stream(self.module.current_stream(self.device))
        return stream

    def _fetch(self, part: Tensor) -> tuple[Tensor, Any]:
        """Begin a copy to the device; returns it and the event of its arrival."""
        stream = self._follow("in")
        with self.module.stream(stream):
            pinned = part if part.is_pinned() else part.pin_memory()
            _release(part)
            copy = pinned.to(self.device, non_blocking=True)
            return copy, stream.record_event()


class Accumulator:
    """Adds values to slices of a buffer, one for each span, in their order; each slice is fetched ahead."""

    def __init__(self, conveyor: Conveyor, buffer: Tensor, spans: Sequence[slice], *, is_new: bool) -> None:
        """Into a new buffer values are written: it holds nothing to add to."""
        self._conveyor, self._buffer, self._spans = conveyor, buffer, iter(spans)
        self._parts = None if is_new else conveyor.load(buffer, spans)

    def add(self, values: Tensor) -> None:
        """Add values on the device to the next slice."""
        span = next(self._spans)
        if self._parts is None:
            self._conveyor.store(values, self._buffer, span)
            return
        total = next(self._parts).add_(values)
        if total.device != self._buffer.device:
            self._conveyor.store(total, self._buffer, span)


@functools.cache
def _copy_stream(device: torch.device, direction: str) -> Any:  # noqa: ARG001
    return torch.get_device_module(device).Stream(device)


def _release(part: Tensor) -> None:
    """Give back the pages of a slice of a mapped file; its content stays in the file."""
    if part.device.type != "cpu" or part.untyped_storage().filename is None or not part.numel():
        return
    begin = part.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
    size = part.data_ptr() + part.nbytes - begin
    assert part.is_contiguous(), "a slice of rows"
    if _libc().madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), mmap.MADV_DONTNEED):
        raise OSError(ctypes.get_errno(), "madvise failed on a memory-mapped buffer")


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
