"""Which path answers what. Every family of endpoints is a file of its own with `routes(worker)`; `app.py` lists them.

    def routes(worker: Worker) -> Routes:
        return {"/v2/models/{name}/infer": Route(infer, ("POST",))}

A part in braces stands for one part of a path; the handler finds it in ``request.path_params``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

Handler = Callable[[Request], Awaitable[Response]]
READ = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Route:
    """One path's handler.

    Attributes:
        handler: request -> response; a `Refusal` that it raises becomes the answer.
        methods: accepted; the first is the one named in sentences.
        query: names of the query parameters that the handler reads; any other is refused, for it would be taken for
            heeded.
        open: answered without GUARD_TOKEN: health, and the page, whose reader types the token into it.
    """

    handler: Handler
    methods: tuple[str, ...] = ("POST",)
    query: tuple[str, ...] = ()
    open: bool = False


Routes = Mapping[str, Route]


class Router:
    """All routes of a service.

    Raises:
        ValueError: two families claim one path.
    """

    def __init__(self, *families: Routes) -> None:
        self.routes: dict[str, Route] = {}
        for family in families:
            if taken := self.routes.keys() & family.keys():
                raise ValueError(f"two handlers for {sorted(taken)[0]}")
            self.routes.update(family)
        self._patterns = [
            (re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))), path)
            for path in self.routes
            if "{" in path
        ]

    def find(self, path: str) -> tuple[str, dict[str, Any]] | None:
        """(the route's path as it was written, its parameters), or None."""
        if path in self.routes:
            return path, {}
        for pattern, written in self._patterns:
            if found := pattern.fullmatch(path):
                return written, found.groupdict()
        return None
