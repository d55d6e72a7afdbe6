"""Memory on the GPU and pinned memory on the host, taken once, and copies between them on one stream.

A copy from or to pinned memory needs no other; ordinary memory CUDA would take through a small pinned part of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from .gpu import checked


class CudaBuffers:
    """A buffer for each tensor.

    Args:
        cuda: cuda.bindings.runtime.
        tensors: name -> (shape, type), of the largest batch.
    """

    def __init__(self, cuda: Any, tensors: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        self._cuda = cuda
        self.stream = checked(cuda.cudaStreamCreate())
        self.addresses: dict[str, int] = {}
        self._host: dict[str, np.ndarray] = {}
        self._pinned: list[int] = []
        self._sent: dict[str, bytes] = {}
        for name, (shape, kind) in tensors.items():
            size = max(1, int(np.prod(shape)) * np.dtype(kind).itemsize)
            self.addresses[name] = int(checked(cuda.cudaMalloc(size)))
            self._pinned.append(int(checked(cuda.cudaMallocHost(size))))
            memory = (ctypes.c_uint8 * size).from_address(self._pinned[-1])
            self._host[name] = np.frombuffer(memory, kind, count=int(np.prod(shape))).reshape(shape)

    def send(self, name: str, array: np.ndarray) -> None:
        """Copy a whole tensor to the GPU, unless it is what was sent last."""
        content = array.tobytes()
        if self._sent.get(name) == content:
            return
        self._host[name][...] = array
        self._copy(self.addresses[name], self._host[name], self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)
        self._sent[name] = content

    def send_rows(self, name: str, rows: np.ndarray, least: int) -> int:
        """Copy the first rows of a batch to the GPU, the last one again up to `least`; how many there are then."""
        n = max(len(rows), least)
        host = self._host[name][:n]
        host[: len(rows)] = rows
        host[len(rows) :] = rows[-1:]
        self._copy(self.addresses[name], host, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)
        return n

    def fetch_rows(self, names: tuple[str, ...], n: int) -> list[np.ndarray]:
        """The first `n` rows of each, once everything on the stream is done; the arrays are the caller's."""
        for name in names:
            self._copy(self._host[name][:n], self.addresses[name], self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)
        checked(self._cuda.cudaStreamSynchronize(self.stream))
        return [self._host[name][:n].copy() for name in names]

    def _copy(self, target: Any, source: Any, kind: Any) -> None:
        size = target.nbytes if isinstance(target, np.ndarray) else source.nbytes
        places = [place.ctypes.data if isinstance(place, np.ndarray) else place for place in (target, source)]
        checked(self._cuda.cudaMemcpyAsync(*places, size, kind, self.stream))

    def close(self) -> None:
        """Give the memory and the stream back; nothing may be under way."""
        for address in self.addresses.values():
            self._cuda.cudaFree(address)
        self._host = {}  # views of what is freed next
        for address in self._pinned:
            self._cuda.cudaFreeHost(address)
        self.addresses, self._pinned = {}, []
        self._cuda.cudaStreamDestroy(self.stream)
