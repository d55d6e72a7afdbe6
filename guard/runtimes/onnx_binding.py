"""A session's inputs and outputs bound to memory once per batch size: a run copies pixels in and answers out.

`InferenceSession.run` takes memory for every output of every run, and sends thresholds and offsets to the GPU each
time. Here both lie where the graph runs; what did not change since the last run is not sent again. On a CPU there is
nothing to gain.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

KEPT = 8  # batch sizes whose memory is kept


class _Bound:
    """The memory of one batch size."""

    def __init__(self, session: Any, ort: Any, device: str, feed: Mapping[str, np.ndarray], outputs: Any) -> None:
        self._binding = session.io_binding()
        self._inputs = {name: ort.OrtValue.ortvalue_from_numpy(array, device, 0) for name, array in feed.items()}
        self._last = {name: array.tobytes() for name, array in feed.items() if name != "images"}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._outputs = []
        for name, shape, kind in outputs:
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, device, 0)
            self._binding.bind_ortvalue_output(name, value)
            self._outputs.append(value)

    def run(self, session: Any, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        for name, array in feed.items():
            content = array.tobytes() if name in self._last else b""
            if name == "images" or content != self._last[name]:
                self._inputs[name].update_inplace(array)
                self._last |= {} if name == "images" else {name: content}
        session.run_with_iobinding(self._binding)
        return [np.array(value.numpy()) for value in self._outputs]  # the memory is the next run's


class BoundRuns:
    """Runs of one session with bound memory. For one thread.

    Args:
        session: an `onnxruntime.InferenceSession` on `device`.
        ort: the module onnxruntime.
        device: "cuda", or "cpu" (for tests).
        classes: C, the width of `probabilities`.
    """

    def __init__(self, session: Any, ort: Any, device: str, classes: int) -> None:
        self._session, self._ort, self._device, self._classes = session, ort, device, classes
        self._bound: OrderedDict[tuple[Any, ...], _Bound] = OrderedDict()

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The graph's four outputs, in the order of `names`; `feed` as `InferenceSession.run` takes it."""
        n = len(feed["images"])
        key = (n, *sorted(feed))
        bound = self._bound.get(key)
        if bound is None:
            bound = _Bound(self._session, self._ort, self._device, feed, self._places(names, n))
            self._bound[key] = bound
            if len(self._bound) > KEPT:
                self._bound.popitem(last=False)
        self._bound.move_to_end(key)
        return bound.run(self._session, feed)

    def _places(self, names: Sequence[str], n: int) -> list[tuple[str, list[int], Any]]:
        """(name, shape, type) of each output."""
        kinds = {"label": np.int64, "probabilities": np.float32, "ood_score": np.float32, "is_ood": np.bool_}
        return [(name, [n, self._classes] if name == "probabilities" else [n], kinds[name]) for name in names]
