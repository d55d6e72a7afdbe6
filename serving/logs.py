"""Log lines with the id of their request, as text or as one JSON object a line (GUARD_LOG=json).

A line holds the method, the path as the route table writes it, status and milliseconds: never a body, a file name, a
query or a header, and so neither images nor tokens.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from contextvars import ContextVar
from typing import Any

#: Of the request that this task answers; None outside of requests.
current_id: ContextVar[str | None] = ContextVar("guard_request_id", default=None)

access = logging.getLogger("guard.access")
_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id(given: str | None) -> str:
    """The client's X-Request-Id where it is harmless in logs and headers, else a new one: 16 hexadecimal digits."""
    if given is not None and _SANE.fullmatch(given):
        return given
    return os.urandom(8).hex()


def answered(method: str, endpoint: str, status: int, seconds: float, identity: str) -> None:
    """The access line of one request."""
    ms = round(seconds * 1000, 1)
    fields = {"method": method[:20], "path": endpoint, "status": status, "ms": ms}
    access.info("%s %s %d %.1f ms (%s)", method[:20], endpoint, status, ms, identity, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """time (UTC), level, logger, message, request_id, and the fields of an access line; a traceback as `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if (identity := current_id.get()) is not None:
            line["request_id"] = identity
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def use_json() -> None:
    """Give every handler of this process `JsonLines`, those that BentoML will make included."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in list(logging.Logger.manager.loggerDict))]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        handler.setFormatter(JsonLines())
    try:
        from bentoml._internal.log import SERVER_LOGGING_CONFIG
    except ImportError:  # moved: its own lines stay text
        return
    SERVER_LOGGING_CONFIG["formatters"] = {name: {"()": JsonLines} for name in SERVER_LOGGING_CONFIG["formatters"]}
