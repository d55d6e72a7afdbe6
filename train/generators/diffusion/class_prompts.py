"""What classes are called in prompts, where their folders' names are not it.

    given       class_prompts={"class": {"prompt": words, "token": one of them}}, or a JSON or CSV file of that
    read        folders named by WordNet ids (ImageNet): from a file of names beside the images

In a prompt one token stands for the class: what a method samples takes its place (`prompts`). For "aquarium fish" that
is "fish", as in the published lists; left to itself, it is the first token of the words, also as published.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guard.errors import ConfigError
from guard.record import Record, option

WORDNET_ID = re.compile(r"n\d{8}")
NAMES_FILES = "LOC_synset_mapping.txt", "words.txt", "imagenet_class_index.json", "classnames.txt"
FOLDERS_UP = 4  # ImageNet's images are that far below its LOC_synset_mapping.txt
FORMS = '{"class": {"prompt": "aquarium fish", "token": "fish"}}'


class ClassPrompt(Record):
    """What a class is called."""

    prompt: str | None = option(
        None,
        "The words for the class, which take the place of {} in diffusion.prompt; or a prompt of its own with {} where "
        "the token belongs. Default the class's name.",
    )
    token: str | None = option(
        None, "The word, one token for the tokenizer, that what is sampled replaces; default the first one."
    )


def read_class_prompts(given: Any) -> Any:
    """A mapping as it is, with a plain text for its words; a path's content.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    if isinstance(given, str | Path):
        given = _from_file(Path(given))
    if isinstance(given, Mapping):
        return {name: {"prompt": value} if isinstance(value, str) else value for name, value in given.items()}
    return given


def _from_file(path: Path) -> Any:
    where = f"diffusion.class_prompts={str(path)[:200]!r}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = "is not there" if isinstance(error, FileNotFoundError) else "cannot be read as text"
        raise ConfigError(f"{where} {reason}; give {FORMS}, or a JSON or CSV file of it") from None
    if path.suffix.lower() == ".csv":
        rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
        if not rows or "class" not in rows[0]:
            raise ConfigError(
                f"{where} has no rows under the columns class, prompt and token; its first line names them"
            )
        return {
            str(row["class"]): {
                part: row[part].strip() for part in ("prompt", "token") if (row.get(part) or "").strip()
            }
            for row in rows
        }
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(
            f"{where} holds no JSON object; write {FORMS}, or a CSV with the columns class, prompt, token"
        )
    return found


def check_classes_known(given: Mapping[str, ClassPrompt], class_names: Sequence[str]) -> None:
    """Refuse prompts of classes that the images do not have.

    Raises:
        ConfigError: naming some of them.
    """
    unknown = [name for name in given if name not in class_names]
    if unknown:
        raise ConfigError(
            f"diffusion.class_prompts names {len(unknown)} classes that the images do not have "
            f"({', '.join(unknown)[:80]}); theirs are {', '.join(class_names)[:80]}"
        )


def wordnet_names(class_names: Sequence[str], folder: Path | None) -> dict[str, tuple[str, ...]]:
    """The synonyms of classes that are named by WordNet ids, from a file beside the images; empty for other names.

    Read are LOC_synset_mapping.txt and words.txt ("n01440764 tench, Tinca tinca"), classnames.txt (likewise), and
    imagenet_class_index.json, in the images' folder or one of the four above it.

    Raises:
        ConfigError: there is no such file, or it lacks a class.
    """
    if not class_names or not all(WORDNET_ID.fullmatch(name) for name in class_names):
        return {}
    places = [] if folder is None else [folder, *folder.resolve().parents][: FOLDERS_UP + 1]
    files = [place / name for place in places for name in NAMES_FILES if (place / name).is_file()]
    lacking = list(class_names)
    for path in files:
        found = _names_in(path)
        lacking = [name for name in class_names if name not in found]
        if not lacking:
            return {name: found[name] for name in class_names}
    raise ConfigError(
        f"classes are named by WordNet ids ({lacking[0]} ...), which mean nothing to a text encoder; put "
        f"{NAMES_FILES[0]}, {NAMES_FILES[1]} or {NAMES_FILES[2]} beside the images, or give diffusion.class_prompts"
    )


def _names_in(path: Path) -> dict[str, tuple[str, ...]]:
    """WordNet id -> its names; lines and entries of another form are left out."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".json":
        try:
            entries = json.loads(text)
        except ValueError:
            return {}
        pairs = [entry for entry in entries.values() if isinstance(entry, list)] if isinstance(entries, dict) else []
        return {pair[0]: (str(pair[1]).replace("_", " "),) for pair in pairs if len(pair) == 2}
    lines = (line.strip().split(None, 1) for line in text.splitlines())
    return {
        line[0]: tuple(name.strip() for name in line[1].split(",") if name.strip()) for line in lines if len(line) == 2
    }
