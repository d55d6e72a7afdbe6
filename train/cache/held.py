"""What a synthesiser works with and does not own."""

from __future__ import annotations

from typing import Generic, TypeVar

from guard.errors import ConfigError

T = TypeVar("T")


class Held(Generic[T]):
    """At most one thing, as a synthesiser holds a model that is kept elsewhere: in a file of its own, or by others.

    Checkpoints hold every submodule and need not hold that again; this is none, whatever is put into it.

    Args:
        missing: the sentence that an error says where it is asked for before it is there.
    """

    def __init__(self, missing: str) -> None:
        self.missing = missing
        self._things: tuple[T, ...] = ()

    def put(self, thing: T) -> T:
        """Hold this, in place of what there was; gives it back."""
        self._things = (thing,)
        return thing

    def get(self) -> T:
        """What is held.

        Raises:
            ConfigError: there is nothing yet.
        """
        if not self._things:
            raise ConfigError(self.missing)
        return self._things[0]

    def release(self) -> None:
        """Hold nothing, so that its memory is free."""
        self._things = ()

    def __bool__(self) -> bool:
        return bool(self._things)
