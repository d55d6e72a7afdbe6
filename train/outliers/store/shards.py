"""One shard of an outlier store: a Parquet file in the Hugging Face image convention, whole or not there.

image: struct<bytes: binary (PNG), path: string>, parents: list<int64> (classes), origin: string
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from guard.artefact.files import write_atomic
from guard.cores import available_cores
from guard.errors import ArtefactDamagedError, MissingExtraError

_LARGE_PIXELS = 128 * 128  # from here on encoding is worth threads (Pillow releases the interpreter's lock)


class Rows(NamedTuple):
    """What a shard holds: uint8 (n, H, W, channels); int64 (n, P) with -1 for none, or None; how each was made (n)."""

    images: np.ndarray
    parents: np.ndarray
    origins: list[str]


def shard_path(folder: Path, index: int) -> Path:
    """``shard-00000.parquet`` ..."""
    return folder / f"shard-{index:05d}.parquet"


def write_shard(folder: Path, index: int, rows: Rows) -> Path:
    """Encode and write a shard in one step; equal rows give equal bytes."""
    pa, pq = _pyarrow()
    large = rows.images[0, ..., 0].size >= _LARGE_PIXELS
    with ThreadPoolExecutor(available_cores() if large else 1) as pool:
        encoded = list(pool.map(png, rows.images))
    images = [{"bytes": b, "path": f"{index:05d}-{i:05d}.png"} for i, b in enumerate(encoded)]
    parents = [[int(p) for p in row if p >= 0] for row in rows.parents]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("image", image), ("parents", pa.list_(pa.int64())), ("origin", pa.string())]
    features = {
        "image": {"_type": "Image"},
        "parents": {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "Sequence"},
        "origin": {"dtype": "string", "_type": "Value"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table([images, parents, rows.origins], schema=pa.schema(fields, metadata=metadata))
    sink = pa.BufferOutputStream()
    # PNG does not shrink again, and pages of equal origins do by their dictionary
    pq.write_table(table, sink, compression="none", use_dictionary=["origin"], write_statistics=False)
    return write_atomic(shard_path(folder, index), sink.getvalue().to_pybytes())


def count_rows(path: Path) -> int | None:
    """Images of a shard by its footer; None where there is no such file, or none that can be read."""
    if not path.exists():
        return None
    _, pq = _pyarrow()
    try:
        return int(pq.read_metadata(path).num_rows)
    except Exception:  # pyarrow's own classes
        return None


def read_made(paths: Sequence[Path]) -> tuple[list[list[int]], list[str]]:
    """Parents and origin of every image, in order.

    Raises:
        ArtefactDamagedError: a shard that cannot be read.
    """
    _, pq = _pyarrow()
    parents: list[list[int]] = []
    origins: list[str] = []
    for path in paths:
        try:
            table = pq.read_table(path, columns=["parents", "origin"])
        except Exception as error:  # pyarrow's own classes
            raise ArtefactDamagedError(f"{path} is damaged ({error}); remove it and make the store again") from None
        parents += table.column("parents").to_pylist()
        origins += table.column("origin").to_pylist()
    return parents, origins


def png(pixels: np.ndarray) -> bytes:
    """uint8 (H, W, 1 or 3) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow, which writes Parquet,", "train") from error
    return pyarrow, pyarrow.parquet
