"""`load`: any accepted form of data -> `ImageData`."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..cores import available_cores
from ..deep_images import watched
from ..errors import ConfigError, DataError, GuardError
from ..geometry import MAX_SIDE, Geometry, sides
from ..manifest import Preprocess
from ..preprocess import MAX_PIXELS, header_size, is_deep, open_image
from .coding import PROBED, probe_codings
from .copies import pixel_digests, relabelled
from .decoding import Decoded, decode
from .fingerprint import sample_rows
from .forms import Source, open_source, whole_array
from .forms.listing import counted
from .image_data import ImageData, Pixels
from .labels import check_classes, check_names, printable
from .pixels import SMALL_SIDE, ArrayPixels, StreamedPixels, fits_in_array, new_array
from .progress import with_progress
from .spill import EncodedFile

LOG = logging.getLogger("ood_guard")
DEFAULT_SIDE = 224
CORRUPT_SHARE = 0.01
MOST_NAMED = 10  # corrupt images
_GROUP = 256
_LOOKED_AT = 64  # images, for what only some of a data set shows
_WORTH_PROCESSES = 8192  # small images decode at about 20,000 a second and core; forking takes 0.1 s


def load(
    data: Any,
    *,
    preprocess: Preprocess | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    geometry: Geometry | None = None,
    labelled: bool = True,
    workers: int | None = None,
    cache_dir: str | Path | None = None,
    max_images: int | None = None,
    draw: int | None = None,
    name: str | None = None,
    all_classes: bool = True,
    max_pixels: int = MAX_PIXELS,
) -> ImageData:
    """Open images in any accepted form (see the package's docstring), check them, and decode small ones.

    Every image is decoded once here: those of at most 64 pixels a side, or of 512 MiB together, into one uint8 array
    (above 1 GiB memory-mapped); larger sets only to find what is corrupt, and again whenever a batch is asked for.

    Args:
        data: the images; an `ImageData` is returned as it is.
        preprocess: how images become pixels; default an input of `image_size`, or the images' own size where all
            probed ones are alike and at most 64 pixels a side, else 224 with a centre crop.
        image_size: side of the input or (height, width), where `preprocess` is None.
        geometry: how images come to that size, where `preprocess` is None.
        channels: 3 (grey images are repeated) or 1 (colour is converted to grey), where `preprocess` is None.
        labelled: False ignores labels and accepts images without any.
        workers: processes that decode; default one per core where it pays, 0 for none.
        cache_dir: where scratch files go; default the system's temporary folder. They vanish by themselves.
        max_images: only the first so many, in file order; the fingerprint stays that of the whole.
        draw: seed by which `max_images` random ones are taken in place of the first.
        name: what to call the images; default the folder's, file's or class's name.
        all_classes: refuse a class without images and fewer than two classes; False for evaluation sets.
        max_pixels: width x height allowed per image; larger ones count as corrupt.

    Raises:
        MissingDataError: a path that is not there.
        DataError: no images, unusable labels, or more than 1 % corrupt (the first ten are named).
        ConfigError: an option that is not accepted.
    """
    if max_images is not None and max_images < 1:
        raise ConfigError(f"max_images must be at least 1, got {max_images}")
    if isinstance(data, ImageData):
        images = _as_it_is(data, preprocess, labelled)
        return images if max_images is None else images.subset(first_or_drawn(len(images), max_images, draw))
    source = opened_source(data, labelled, name, all_classes)
    rows = first_or_drawn(len(source), max_images, draw)
    config = preprocess or _own_preprocess(source, rows, image_size, channels, geometry or Geometry())
    codings = probe_codings(_some(source, rows), (config.height, config.width))
    look_for_depth(source, rows)
    fingerprint = source.fingerprint()
    scratch = None if cache_dir is None else Path(cache_dir)
    pixels, kept, corrupt, digests = _decode_all(source, rows, config, workers, scratch, max_pixels)
    labels = None if source.labels is None else source.labels[kept]
    if labels is not None and all_classes and len(rows) == len(source):
        check_classes(labels, source.class_names, source.name)  # again: a class may have lost all its images
    _warn(source, labels, kept, digests)
    return ImageData(
        name=source.name,
        class_names=source.class_names,
        labels=labels,
        preprocess=config,
        fingerprint=fingerprint,
        rows=kept,
        corrupt=corrupt,
        pixels=pixels,
        codings=codings,
        not_read=getattr(source, "not_read", {}),
        digests=digests,
        source=pixels.source if isinstance(pixels, StreamedPixels) else source,
        folder=_folder_of(data),
        _positions=kept if pixels.array is None else None,
    )


def opened_source(data: Any, labelled: bool, name: str | None, all_classes: bool) -> Source:
    """The source of the images, with names that a guard can keep.

    Raises:
        DataError: no images, classes that cannot be learned, or a class's name that is no text.
    """
    source = open_source(data, labelled=labelled, name=name)
    source.name = printable(source.name)
    if len(source) == 0:
        missed = getattr(source, "not_read", {})
        raise DataError(f"{source.name} holds no images{_but(missed)}")
    check_names(source.class_names, source.name)
    if source.labels is not None and all_classes:
        check_classes(source.labels, source.class_names, source.name)
    return source


def _but(missed: Mapping[str, int]) -> str:
    return f" that are read, but {counted(Counter(missed))}; convert them to PNG or JPEG" if missed else ""


def _warn(source: Source, labels: np.ndarray | None, kept: np.ndarray, digests: np.ndarray) -> None:
    """Say once what is not read, and which copies contradict each other."""
    for note in getattr(source, "notes", ()):
        LOG.warning("%s", printable(note))
    if labels is None:
        return
    rows, first = relabelled(digests, labels)
    if len(rows):
        pair = [source.items(kept[[row]])[0] for row in (first[0], rows[0])]
        at = [
            str(item) if isinstance(item, Path) else source.where(int(kept[row])).rstrip(": ") or f"image {kept[row]}"
            for item, row in zip(pair, (first[0], rows[0]), strict=True)
        ]
        LOG.warning(
            "%d images of %s have the very pixels of an image of another class (e.g. %s and %s); correct their labels",
            len(rows),
            source.name,
            printable(at[0]),
            printable(at[1]),
        )


def first_or_drawn(count: int, most: int | None, seed: int | None) -> np.ndarray:
    """Rows of `count`, ascending: all, the first `most`, or as many random ones."""
    if most is None or seed is None:
        return np.arange(count)[:most]
    return np.sort(np.random.default_rng([seed, 0xD4A3]).permutation(count)[:most])


def _folder_of(data: Any) -> Path | None:
    path = Path(data) if isinstance(data, str | Path) else None
    if path is None or not path.exists():
        return None
    return path if path.is_dir() else path.parent


def _as_it_is(data: ImageData, preprocess: Preprocess | None, labelled: bool) -> ImageData:
    if preprocess is not None and preprocess != data.preprocess:
        raise DataError(
            f"{data.name} was loaded as {data.preprocess.height} x {data.preprocess.width} x "
            f"{data.preprocess.channels} images and is needed otherwise ({preprocess}); load it again from its source"
        )
    if labelled and data.labels is None:
        raise DataError(f"labelled images are needed, but {data.name} was loaded without labels")
    return data


def _own_preprocess(
    source: Source, rows: np.ndarray, image_size: int | tuple[int, int] | None, channels: int, geometry: Geometry
) -> Preprocess:
    """The input that suits these images, where nobody said."""
    if channels != 1 and channels != 3:
        raise ConfigError(f"channels must be 1 or 3, got {channels}")
    if image_size is not None:
        height, width = sides(image_size)
        if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
            raise ConfigError(f"image_size must be in 1..{MAX_SIDE} pixels, got {image_size}")
    else:
        height, width = _common_size(source, rows) or (DEFAULT_SIDE, DEFAULT_SIDE)
        if max(height, width) > SMALL_SIDE:
            height = width = DEFAULT_SIDE
    return geometry.applied(Preprocess(height=height, width=width, channels=1 if channels == 1 else 3))


def _some(source: Source, rows: np.ndarray) -> list[Any]:
    """A few encoded images, cheap to get at; none where the source holds pixels or decodes by itself."""
    if whole_array(source) is not None or source.read_in_worker:
        return []
    spread = np.linspace(0, len(rows) - 1, min(len(rows), PROBED)).astype(np.int64)
    return source.items(rows[:PROBED] if source.in_order else rows[spread])


def look_for_depth(source: Source, rows: np.ndarray) -> None:
    """Say where images have 16 or 32 bits and use few of them; a few are opened, by their headers at first."""
    if whole_array(source) is not None:
        return
    spread = np.linspace(0, len(rows) - 1, min(len(rows), _LOOKED_AT)).astype(np.int64)
    looked_at = rows[:_LOOKED_AT] if source.in_order else rows[spread]
    with watched() as deep:
        for item in source.items(looked_at):
            with contextlib.suppress(GuardError):  # corrupt: named later, when everything is decoded
                if is_deep(item):
                    open_image(item)
    deep.warn(source.name, len(looked_at))


def _common_size(source: Source, rows: np.ndarray) -> tuple[int, int] | None:
    """(height, width) where up to 256 images have one size; None where they differ."""
    whole = whole_array(source)
    if whole is not None:
        return whole.shape[1], whole.shape[2]
    probe = rows[: len(sample_rows(len(rows)))] if source.in_order else rows[sample_rows(len(rows))]
    sizes = set()
    for item in source.items(probe):
        try:
            sizes.add(header_size(item))
        except GuardError:  # corrupt: named later, when everything is decoded
            continue
    return sizes.pop() if len(sizes) == 1 else None


def _decode_all(
    source: Source, rows: np.ndarray, config: Preprocess, workers: int | None, scratch: Path | None, max_pixels: int
) -> tuple[Pixels, np.ndarray, tuple[str, ...], np.ndarray]:
    """(pixels, int64 rows that could be read, one sentence per row that could not, digests of the pixels)."""
    if (ready := _ready(source, rows, config)) is not None:
        return ArrayPixels(ready), rows, (), pixel_digests(ready)
    in_array = fits_in_array(len(rows), config)
    if workers is None:
        workers = 0 if in_array and len(rows) < _WORTH_PROCESSES else available_cores()
    if not in_array and source.in_order:
        source = EncodedFile(source, rows, scratch)
    array = new_array(len(rows), config, scratch) if in_array else None
    size = min(_GROUP, max(1, len(rows) // (8 * max(workers, 1))))  # enough groups to keep every worker busy
    groups = [rows[start : start + size] for start in range(0, len(rows), size)]
    stream = decode(source, groups, config, workers=workers, max_pixels=max_pixels, check_only=not in_array)
    bad, digests = _consume(stream, groups, source, array, len(rows))
    corrupt = _report(bad, len(rows), source.name)
    kept = rows[~np.isin(rows, list(bad))]
    if array is not None:
        array = array[: len(kept)]
        return ArrayPixels(array), kept, corrupt, pixel_digests(array)
    return StreamedPixels(source, config, workers=workers, max_pixels=max_pixels), kept, corrupt, digests


def _ready(source: Source, rows: np.ndarray, config: Preprocess) -> np.ndarray | None:
    """The images where they are one array of the right size already; grey is repeated."""
    whole = whole_array(source)
    if whole is None or whole.shape[1:3] != (config.height, config.width) or not config.keeps_own_size:
        return None
    if whole.shape[3] not in (1, config.channels):
        return None
    asked = whole if len(rows) == len(whole) else whole[rows]  # all of them need no copy
    return asked if whole.shape[3] == config.channels else np.repeat(asked, config.channels, axis=3)


def _consume(
    stream: Generator[Decoded, None, None],
    groups: list[np.ndarray],
    source: Source,
    array: np.ndarray | None,
    count: int,
) -> tuple[dict[int, str], np.ndarray]:
    """Fill `array`, where there is one; (why each row that cannot be read cannot, digests of the others).

    Raises:
        DataError: so many cannot be read that the rest would not change the answer.
    """
    bad: dict[int, str] = {}
    digests: list[np.ndarray] = []
    filled = seen = 0
    with contextlib.closing(with_progress(stream, count, f"reading {source.name}")) as results:
        for group, decoded in zip(groups, results, strict=True):
            seen += len(group)
            for position, reason in decoded.failures:
                bad[int(group[position])] = f"{source.where(int(group[position]))}{reason}"
            if len(bad) >= 10 and len(bad) > CORRUPT_SHARE * count:
                raise _too_many(bad, seen, count, source.name)
            if array is not None:
                array[filled : filled + len(decoded.images)] = decoded.images
                filled += len(decoded.images)
            digests.append(decoded.digests)
    return bad, np.concatenate(digests)


def _report(bad: dict[int, str], count: int, name: str) -> tuple[str, ...]:
    """Warn of each corrupt image; stop above 1 %."""
    if len(bad) > CORRUPT_SHARE * count:
        raise _too_many(bad, count, count, name)
    sentences = tuple(printable(sentence) for sentence in bad.values())
    for sentence in sentences[:MOST_NAMED]:
        LOG.warning("skipped a corrupt image: %s", sentence)
    if len(sentences) > MOST_NAMED:
        LOG.warning("skipped %d corrupt images of %s in all", len(sentences), name)
    return sentences


def _too_many(bad: dict[int, str], seen: int, count: int, name: str) -> DataError:
    first = "; ".join(printable(sentence) for sentence in list(bad.values())[:MOST_NAMED])
    more = f"; and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
    return DataError(
        f"{len(bad)} of {'the first ' if seen < count else ''}{seen} images of {name} cannot be read; up to 1 % "
        f"of {count} would be skipped; remove or repair them: {first}{more}"
    )
