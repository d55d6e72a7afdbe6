"""The exception tree is what its docstring draws, and messages carry what a user needs."""

from __future__ import annotations

import inspect
import re

import pytest

from guard import errors


def _drawn() -> dict[str, tuple[str, str | None]]:
    """name -> (parent in the drawing, builtin in brackets), read from the docstring."""
    found: dict[str, tuple[str, str | None]] = {}
    path: list[str] = ["GuardError"]
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│ ]*)[├└]── (\w+)(?: \((\w+)\))?", line)
        if match:
            depth = len(match[1]) // 4 + 1
            path = [*path[:depth], match[2]]
            found[match[2]] = (path[depth - 1], match[3])
    return found


def test_the_drawing_is_the_tree() -> None:
    classes = {
        name: cls
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.GuardError) and cls is not errors.GuardError
    }
    drawn = _drawn()
    assert set(drawn) == set(classes)
    for name, (parent, builtin) in drawn.items():
        bases = [base.__name__ for base in classes[name].__bases__]
        assert bases[0] == parent
        assert bases[1:] == ([builtin] if builtin else [])


def test_an_unknown_name_shows_near_matches_and_all_accepted_names() -> None:
    error = errors.UnknownNameError("method", "voss", ["vos", "plain", "mim"], "See: guard methods.")
    assert str(error) == "unknown method 'voss'; did you mean 'vos'? Accepted: mim, plain, vos. See: guard methods."


def test_an_unknown_name_that_resembles_nothing_shows_the_accepted_names_only() -> None:
    error = errors.UnknownNameError("score", "qqqq", ["energy", "msp"])
    assert str(error) == "unknown score 'qqqq'. Accepted: energy, msp."


def test_a_missing_extra_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=re.escape("run: pip install 'ood-guard[serve]'")):
        raise errors.MissingExtraError("bentoml", "serve")


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.MissingDataError, FileNotFoundError),
        (errors.ArtefactNotFoundError, FileNotFoundError),
        (errors.ArtefactDamagedError, OSError),
    ],
)
def test_os_errors_with_a_sentence_print_the_sentence(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, builtin)
    assert str(error("no such guard: x")) == "no such guard: x"  # not "[Errno ...]"


@pytest.mark.parametrize(
    "value", ["x" * 3_000_000, "x " * 1_500_000, "it's\n" * 600_000, list(range(400_000)), b"\0" * 10**6]
)
@pytest.mark.parametrize("kind", [errors.ConfigError, errors.MissingDataError, errors.ArtefactError])
def test_no_message_grows_with_the_value_in_it(kind: type[errors.GuardError], value: object) -> None:
    message = str(kind(f"no such thing {value!r}; give another"))
    assert message.startswith("no such thing ")
    assert message.endswith("; give another")
    assert len(message) < 260
    plain = str(kind(f"no such thing {value}; give another"))
    assert plain.endswith("; give another")
    assert len(plain) <= errors.LONGEST_MESSAGE


def test_what_is_short_stays_as_it_is() -> None:
    names = ", ".join(f"'name {i}'" for i in range(60))
    message = f"the model's classes are {names}; the data's are others. It isn't 'one' of [{names[:150]}]"
    assert str(errors.ConfigError(message)) == message
    assert errors.MissingDataError("gone").args == ("gone",)


@pytest.mark.parametrize("kind", [errors.ConfigError, errors.MissingDataError, errors.ArtefactDamagedError])
def test_what_an_error_is_about_comes_before_it(kind: type[errors.GuardError]) -> None:
    error = kind("it is wrong")
    error.begin_with("run 3")
    assert str(error) == "run 3: it is wrong"
    others = [errors.UnknownNameError("method", "x", ["y"]), errors.MissingExtraError("torch", "train")]
    for other in others:
        before = str(other)
        other.begin_with("run 3")
        assert str(other) == f"run 3: {before}"
