"""A finished model in a folder that runs can share: ``<name>.safetensors``, and its card beside it, ``<name>.json``.

It is trained by one run at a time, which holds ``training.lock``.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from pydantic import model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from guard.artefact.files import write_atomic
from guard.data import ImageData
from guard.errors import ArtefactDamagedError, ConfigError
from guard.record import Record

from ..engine.distributed import processes
from . import keyed

log = logging.getLogger("ood_guard")

LOCK = "training.lock"
POLL = 0.5  # seconds between tries of a lock that another holds

Card = TypeVar("Card", bound=Record)
Model = TypeVar("Model", bound=nn.Module)


class SharedOptions(Record):
    """Options of a model that is trained first, and that runs share where one of them names its folder.

    Subclasses have fields `model` and `folder`; a plain string stands for ``{"model": string}``. A store of outliers
    that the model made compares the model itself with what it was made by (`identity`), and not the options that it
    makes up for (`settled`).

    Attributes:
        kind: what its files are called, and its folder in a run's or store's.
        ours: `model` where it is the one that is trained and kept here.
        training: the options that only say how that is trained, and so of what form it is.
    """

    kind: ClassVar[str]
    ours: ClassVar[str]
    training: ClassVar[frozenset[str]]

    if TYPE_CHECKING:  # each has its own default and description
        model: str
        folder: str | None

    @model_validator(mode="before")
    @classmethod
    def _model_alone(cls, given: Any) -> Any:
        return {"model": given} if isinstance(given, str) else given

    @property
    def is_ours(self) -> bool:
        """Whether it is the model that is trained and kept here."""
        return self.model == self.ours

    @property
    def named_folder(self) -> Path | None:
        """Where the user wants it kept."""
        return None if self.folder is None else Path(self.folder)

    def kept_in(self, folder: Path) -> Path:
        """Where it is kept for a run or store in `folder`."""
        return self.named_folder or folder / self.kind

    def identity(self, folder: Path) -> str | None:
        """Which model there is for a run or store in `folder`: its weights' digest, 16 hex digits. Nothing is built.

        None where it is not finished, or not ours.
        """
        found = self.kept_in(folder)
        if not self.is_ours or not (found / f"{self.kind}.json").exists():
            return None
        try:
            return keyed.file_digest(found / f"{self.kind}.safetensors")
        except FileNotFoundError:
            return None

    def settled(self) -> frozenset[str]:
        """The options that decide nothing where the model is known."""
        if not self.is_ours:
            return frozenset()
        return frozenset({"folder"}) | (self.training if self.named_folder else frozenset())


def found_or_trained(folder: Path, what: str, find: Callable[[], Model | None], train: Callable[[], Model]) -> Model:
    """The finished model in `folder`, or the one that `train` makes there, while no other process does.

    Where another trains there already, this waits for it and takes what it made; where it was killed, resumes it.
    Processes that were launched together count as one: they call this together, and train together.
    """
    us, model = processes(), find()
    if us.first_says(model is not None):
        return model or _found(find, folder, what)
    with _alone(folder, what) if us.is_first else contextlib.nullcontext():
        model = find() if us.is_first else None  # it may be there by now
        if us.first_says(model is not None):
            return model or _found(find, folder, what)
        model = train()
        us.wait()  # for the first to write it
    return model


def _found(find: Callable[[], Model | None], folder: Path, what: str) -> Model:
    """What the first of several processes has found."""
    model = find()
    if model is None:
        raise ConfigError(f"the first process finds a {what} in {folder}, and this one does not; share that folder")
    return model


@contextlib.contextmanager
def _alone(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder's lock, which the system takes back from a process that dies."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another run that trains the %s in %s", what, folder)
        lock.acquire(poll_interval=POLL)
    except (OSError, NotImplementedError) as error:  # some network file systems have no locks
        log.warning("%s cannot be locked (%s): train the %s there in one run at a time", folder, error, what)
    try:
        yield
    finally:
        lock.release()


def write_finished(folder: Path, name: str, model: nn.Module, card: Record) -> None:
    """Weights first, then the card: a folder with a card is whole. The checkpoint on the way there is removed.

    Of several processes the first writes.
    """
    if not processes().is_first:
        return
    state = {key: value.detach().to("cpu").contiguous() for key, value in model.state_dict().items()}
    write_atomic(folder / f"{name}.safetensors", save(state))
    write_atomic(folder / f"{name}.json", card.model_dump_json(indent=1).encode())
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)


def read_finished(folder: Path, name: str, kind: type[Card], what: str) -> tuple[Card, dict[str, Tensor]] | None:
    """Card and weights; None where there are none.

    Args:
        kind: of the card. what: the model, for people ("pair").

    Raises:
        ArtefactDamagedError: they cannot be read.
    """
    try:
        card = kind.model_validate_json((folder / f"{name}.json").read_bytes())
        return card, load((folder / f"{name}.safetensors").read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, SafetensorError) as error:
        raise ArtefactDamagedError(f"the {what} in {folder} is damaged ({error}); remove the folder") from None


def check_fits(folder: Path, what: str, then: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Refuse a model that was made otherwise than it is asked for, in any of `keys`.

    Raises:
        ConfigError: naming every difference.
    """
    differing = [f"{key}: {then[key]!r} then, {now[key]!r} now" for key in keys if then[key] != now[key]]
    if differing:
        raise ConfigError(f"{folder} holds a {what} that does not fit ({'; '.join(differing)}); choose another folder")


def report_differing(
    folder: Path, what: str, then: Mapping[str, Any], now: Mapping[str, Any], keys: Iterable[str]
) -> None:
    """Say which of `keys` are not as asked for in a model that is taken as it is; nothing where all are."""
    differing = [f"{key} is {then[key]!r}, not {now[key]!r}" for key in keys if then[key] != now[key]]
    if differing:
        log.warning("the %s in %s is used as it was trained: %s", what, folder, "; ".join(differing))


def images_digest(data: ImageData) -> str:
    """Which rows of the data these are, in any order, and how they were read where that is not the default."""
    rows, geometry = keyed.rows_digest(np.sort(data.rows)), data.preprocess.geometry()
    return (keyed.digest([rows, geometry], keyed.LONG) if geometry else rows)[: keyed.LONG]
