"""What lies below a folder: images, files that are not read, and what is nobody's data."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import DataError, GuardError
from ...preprocess import header_size

#: Files with other suffixes are left alone. What an image file holds is judged by its content, never by its suffix.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k"),
)
#: What lies beside images by right: counted on the data card, and nobody is warned.
_BESIDE = {
    *(".txt", ".md", ".rst", ".log", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini"),
    *(".cfg", ".html", ".htm", ".css", ".js", ".py", ".ipynb", ".sh", ".url", ".lnk", ".xmp", ".aae", "no ending"),
}
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
_SYSTEM_FOLDERS = {
    *("__macosx", "@eadir", "lost+found", "$recycle.bin", "recycler", "system volume information", "#recycle"),
    *("@recycle", "@recently-snapshot", "#snapshot", "__pycache__"),
}
NO_ENDING, NO_FILE, BROKEN_LINK = "without an ending", "that are no regular files", "broken links"
_LONGEST_ENDING = 16


@dataclass
class Listing:
    """What `list_images` found.

    Attributes:
        images: sorted by path; also those that cannot be opened, which are named when they are decoded.
        not_read: how many other files, by ending in lower case (`.heic`), or what else they are.
        aside: how many image files lie in each hidden or system folder, by its name, or are hidden themselves.
    """

    images: list[Path] = field(default_factory=list)
    not_read: Counter[str] = field(default_factory=Counter)
    aside: Counter[str] = field(default_factory=Counter)

    @property
    def missed(self) -> Counter[str]:
        """`not_read` without what lies beside images by right."""
        return Counter({ending: count for ending, count in self.not_read.items() if ending not in _BESIDE})


def list_images(folder: Path) -> Listing:
    """Everything below `folder`. A file without a suffix is an image where its content begins like one.

    Links to folders are followed once, and never to a folder that holds this one.

    Raises:
        DataError: a folder that cannot be listed.
    """
    listing, seen = Listing(), _holders(folder)
    _walk(os.fspath(folder), listing, seen)
    listing.images.sort()
    return listing


def folders_in(root: Path) -> tuple[list[Path], Listing]:
    """(the folders directly in `root` that may be classes, sorted by name; the files directly in it).

    Raises:
        DataError: a folder that cannot be listed.
    """
    files, folders = Listing(), []
    for entry in _entries(os.fspath(root)):
        if not _is_folder(entry):
            _sort_in(entry, files)
        elif is_aside(entry.name):
            _count_aside(entry, files)
        else:
            folders.append(root / entry.name)
    files.images.sort()
    return sorted(folders, key=lambda p: p.name), files


def sorted_names(root: Path, keys: Iterable[Path]) -> dict[str, Listing]:
    """What lies below a folder elsewhere, by names alone: the first folder of each, "" for none -> its files.

    Args:
        root: the folder.
        keys: paths of files from there.
    """
    found: dict[str, Listing] = {}
    for key in keys:
        first, name = key.parts[0] if len(key.parts) > 1 else "", key.name
        aside = next((part for part in key.parts[:-1] if is_aside(part)), None)
        listing = found.setdefault("" if aside is not None and first == aside else first, Listing())
        ending = key.suffix.lower()
        if name.lower() in _SYSTEM_FILES or name.startswith("._"):
            continue
        if aside is not None or name.startswith("."):
            listing.aside[aside or "hidden files"] += ending in SUFFIXES
        elif ending in SUFFIXES:
            listing.images.append(root / key)
        else:
            listing.not_read[_both_endings(key, ending) or "no ending"] += 1
    for listing in found.values():
        listing.aside = +listing.aside  # without those that hold no image
    return found


def together(listings: Iterable[Listing]) -> Listing:
    """All of them as one."""
    whole = Listing()
    for listing in listings:
        whole.images += listing.images
        whole.not_read += listing.not_read
        whole.aside += listing.aside
    return whole


def is_aside(folder: str) -> bool:
    """Whether a folder of this name is hidden, or a system's own, and so no class."""
    return folder.startswith(".") or folder.lower() in _SYSTEM_FOLDERS


def counted(endings: Counter[str], most: int = 4) -> str:
    """``50 .heic, 2 .svg``"""
    shown = [f"{count} {ending}" for ending, count in endings.most_common(most)]
    return ", ".join(shown) + (" ..." if len(endings) > most else "")


def _walk(folder: str, listing: Listing, seen: set[str]) -> None:
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in _entries(folder):
        if not _is_folder(entry):
            _sort_in(entry, listing)
        elif is_aside(entry.name):
            _count_aside(entry, listing)
        else:
            _walk(entry.path, listing, seen)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {folder!r} cannot be listed ({error.strerror}); allow it, or remove it") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _sort_in(entry: os.DirEntry[str], listing: Listing) -> None:
    """Count one entry other than a folder. Only regular files are ever opened: a pipe would wait for its writer."""
    name, path = entry.name, Path(entry.path)
    ending = path.suffix.lower()
    if name.lower() in _SYSTEM_FILES or name.startswith("._"):  # macOS keeps a file's attributes in these
        return
    if name.startswith("."):
        listing.aside["hidden files"] += ending in SUFFIXES
    elif not _is_regular(entry):
        if not entry.is_symlink():
            listing.not_read[NO_FILE] += 1
        elif ending in SUFFIXES:
            listing.images.append(path)  # named when it cannot be opened
        else:
            listing.not_read[BROKEN_LINK] += 1
    elif ending in SUFFIXES or (not ending and _begins_like_an_image(path)):
        listing.images.append(path)
    else:
        listing.not_read[_counted_as(path, ending)] += 1


def _is_regular(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _counted_as(path: Path, ending: str) -> str:
    """The ending of a file that is not read; both of them where the first is an image's, as in ``a.jpg.txt``."""
    return _both_endings(path, ending) or (NO_ENDING if _begins_like_a_picture(path) else "no ending")


def _both_endings(path: Path, ending: str) -> str:
    inner = Path(path.stem).suffix.lower()
    return (inner + ending if inner in SUFFIXES else ending)[:_LONGEST_ENDING]


def _begins_like_an_image(path: Path) -> bool:
    try:
        header_size(path)
    except (GuardError, OSError):
        return False
    return True


def _begins_like_a_picture(path: Path) -> bool:
    """Whether a file is one of the pictures that are not read: HEIC, Photoshop, PDF, PostScript, SVG, JPEG XL."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return True  # nobody knows: it is named
    heic = head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heif")
    return heic or head.startswith((b"8BPS", b"%PDF", b"%!PS", b"<svg", b"\xff\x0a", b"\x00\x00\x00\x0cJXL"))


def _count_aside(entry: os.DirEntry[str], listing: Listing) -> None:
    count = sum(1 for name in _names_below(entry.path) if name.lower().endswith(SUFFIXES))
    if count:
        listing.aside[entry.name] += count


def _names_below(folder: str) -> Iterator[str]:
    for _, _, files in os.walk(folder):
        yield from (name for name in files if not name.startswith("._"))


def _holders(folder: Path) -> set[str]:
    """The folders that hold `folder`: a link back to one of them would bring in everybody else's images."""
    return {os.fspath(parent) for parent in Path(os.path.realpath(folder)).parents}
