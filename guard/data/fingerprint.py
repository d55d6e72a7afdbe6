"""A short name for the content of a data set.

    fingerprint = first 16 hex digits of SHA-256(images in order | labels | class names)

Images count by their encoded bytes (or raw pixels), so the same files give the same fingerprint wherever they lie and
whatever input size they are loaded for. Above 512 MiB reading everything would cost more than it is worth: then the
size of every image counts, and the content of 256 of them, evenly spaced (and of the first and last).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

FULL_CONTENT_BYTES = 512 * 2**20
SAMPLES = 256


def fingerprint(images: Iterable[Any], labels: np.ndarray | None, class_names: tuple[str, ...]) -> str:
    """16 hex digits; `images` are bytes-like objects in order (sizes and samples for large sets)."""
    digest = hashlib.sha256()
    for image in images:
        view = memoryview(image)
        digest.update(view.nbytes.to_bytes(8, "little"))
        digest.update(view)
    digest.update(b"labels")
    if labels is not None:
        digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    digest.update(json.dumps(class_names).encode())
    return digest.hexdigest()[:16]


def sample_rows(count: int) -> np.ndarray:
    """At most 256 evenly spaced rows, the first and the last among them."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, SAMPLES)).astype(np.int64))


def sizes_as_bytes(sizes: Iterable[int]) -> bytes:
    return np.fromiter(sizes, dtype="<i8").tobytes()
