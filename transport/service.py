"""The way from a method's name to what answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from reedbed.common import logs
from reedbed.common.errors import InvalidArgument, ReedbedError
from reedbed.transport.lane import Request, Response

log = logs.get("transport")

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class Router:
    """Handlers by method name."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)

    async def handle(self, request: Request) -> Response:
        """The handler's answer, or one of our errors.

        InvalidArgument for a method that is unknown. What is not one of our errors is a bug: its traceback goes to
        the log, and the caller is told no more than that.
        """
        handler = self._handlers.get(request.method)
        if handler is None:
            raise InvalidArgument(
                f"this daemon has no method {request.method!r}", hint="Check that both sides run the same Reedbed"
            )
        try:
            return await handler(request)
        except ReedbedError:
            raise
        except Exception as bug:
            log.exception("a handler of %s failed", request.method)
            raise ReedbedError("the daemon failed at this call", hint="Its log says why") from bug
