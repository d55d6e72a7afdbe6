"""Every error a user can cause, each also the builtin that fits.

    GuardError
    ├── ConfigError (ValueError)        an option, name or argument that is not accepted
    │   └── UnknownNameError            a method, score, head or backbone nobody registered (near matches shown)
    ├── DataError (ValueError)          a data set that cannot be used: empty class, one class, too many corrupt files
    │   └── MissingDataError (FileNotFoundError)   a path that is not there
    ├── ImageError (ValueError)         one image that cannot be decoded, or is too large
    ├── ModelError (ValueError)         a classifier that cannot be guarded as it is
    ├── DivergedError (ArithmeticError) a training whose loss is no longer a number
    ├── CalibrationError (ValueError)   a false-alarm rate the calibration images cannot support
    ├── ArtefactError (OSError)         a guard file or folder that is missing or cannot be read
    │   ├── ArtefactNotFoundError (FileNotFoundError)
    │   ├── ArtefactDamagedError        changed, cut short, or not ours
    │   └── ArtefactVersionError        written by another format version
    ├── ExportError (RuntimeError)      a model that cannot be written as ONNX or built as an engine
    ├── ParityError (RuntimeError)      an exported file that does not decide like its source
    ├── ServiceError (OSError)          a service that `guard.Client` asked and that did not answer with a verdict
    │   ├── ServiceUnreachableError (ConnectionError)  nobody answers at that address, or not in time
    │   ├── ServiceOverloadedError      it said to ask later, until the client gave up
    │   └── ServiceRefusedError (ValueError)  the request is not accepted; the message is the service's own
    ├── RuntimeUnavailableError (RuntimeError)  a device or runtime that was asked for and is not there
    │   └── EngineMismatchError         a TensorRT engine of another GPU or version, which cannot be built again here
    └── MissingExtraError (ImportError) a package that an optional feature needs; says which pip install supplies it

A message names the bad value, what is accepted, and the fix. The command line prints it as one line and exits with 2.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST_VALUE, LONGEST_MESSAGE = 200, 3000  # letters
_QUOTED = re.compile(r"""(?<!\w)(['"])((?:(?!\1(?!\w)).)*)\1(?!\w)""", re.DOTALL)
_LISTED = re.compile(r"([\[{])([^\[\]{}]*)([\]}])")


class GuardError(Exception):
    """Base of every error in the tree above. A message is one line, and no value in it is longer than 200 letters."""

    def __init__(self, *args: object, **named: object) -> None:
        super().__init__(*(brief(arg) if isinstance(arg, str) else arg for arg in args), **named)

    __str__ = Exception.__str__  # of `args`, which may be said anew: an ImportError keeps its first words elsewhere

    def begin_with(self, what: str) -> None:
        """Say before the message what it is about."""
        self.args = (brief(f"{what}: {self}"),)


def brief(message: str) -> str:
    """A message on one line, with long values cut: what is quoted, what is in brackets, and what has no spaces."""
    text = " ".join(cut(message, 4 * LONGEST_MESSAGE).split())
    if len(text) <= LONGEST_VALUE:
        return text
    text = _QUOTED.sub(lambda found: f"{found[1]}{cut(found[2])}{found[1]}", text)
    text = _LISTED.sub(lambda found: f"{found[1]}{cut(found[2])}{found[3]}", text)
    return cut(" ".join(cut(word) for word in text.split(" ")), LONGEST_MESSAGE)


def cut(text: str, most: int = LONGEST_VALUE) -> str:
    """The beginning and the end, with dots between, where it is longer: a sentence ends with what to do."""
    head = most * 2 // 3
    return text if len(text) <= most else f"{text[:head]}...{text[-(most - head - 3) :]}"


class ConfigError(GuardError, ValueError):
    pass


class UnknownNameError(ConfigError):
    """A name that is not registered; the message shows near matches and accepted names, all that there is room for."""

    def __init__(self, kind: str, name: object, accepted: Iterable[str], hint: str = "") -> None:
        names = sorted(accepted)
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
        meant = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
        tail = f" {hint}" if hint else ""
        super().__init__(f"unknown {kind} {name!r:.80}{meant} Accepted: {_some(names)}.{tail}")


def _some(names: list[str], letters: int = 150) -> str:
    """Names for a message, and how many more there are."""
    taken = 0
    for name in names:
        letters -= len(name) + 2
        taken += letters > 0
    return ", ".join(names[:taken]) + (f" and {len(names) - taken} more" if taken < len(names) else "")


class DataError(GuardError, ValueError):
    pass


class MissingDataError(DataError, FileNotFoundError):
    pass


class ImageError(GuardError, ValueError):
    pass


class ModelError(GuardError, ValueError):
    pass


class DivergedError(GuardError, ArithmeticError):
    pass


class CalibrationError(GuardError, ValueError):
    pass


class ArtefactError(GuardError, OSError):
    pass


class ArtefactNotFoundError(ArtefactError, FileNotFoundError):
    pass


class ArtefactDamagedError(ArtefactError):
    pass


class ArtefactVersionError(ArtefactError):
    pass


class ExportError(GuardError, RuntimeError):
    pass


class ParityError(GuardError, RuntimeError):
    pass


class ServiceError(GuardError, OSError):
    pass


class ServiceUnreachableError(ServiceError, ConnectionError):
    pass


class ServiceOverloadedError(ServiceError):
    pass


class ServiceRefusedError(ServiceError, ValueError):
    """A request that the service does not accept.

    Attributes:
        status: the HTTP status, 400 .. 499.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class RuntimeUnavailableError(GuardError, RuntimeError):
    pass


class EngineMismatchError(RuntimeUnavailableError):
    pass


class MissingExtraError(GuardError, ImportError):
    """An optional package is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed; run: pip install 'ood-guard[{extra}]'")

    def begin_with(self, what: str) -> None:
        super().begin_with(what)
        self.msg = str(self.args[0])  # which an ImportError prints
