"""How a store is to behave: where its cluster is, how long it waits, how much it does at once."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from reedbed.common.errors import InvalidArgument
from reedbed.common.limits import DEFAULT_ENDPOINT, DEFAULT_PORT, MIB
from reedbed.protos.names import shown
from reedbed.transport.tls import TlsConfig

ENDPOINT_VARIABLE: Final = "REEDBED_ENDPOINT"

_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.%]{2,64}\]")
_HINT = "An endpoint reads HOST:PORT, such as 127.0.0.1:7300, or unix:PATH"


@dataclass(frozen=True, slots=True)
class Options:
    """What `connect` was given. Pickles; InvalidArgument for values that can never be right.

    timeout: seconds that an operation may take. A stream (an object of more than one extent, a `get_many`, an open
    file) may take longer: there it bounds how long one extent or one call to the catalog may take. None: no bound.
    concurrency: extents, or small objects of `get_many`, under way at once in one operation.
    window: bytes under way at once in one operation; one extent or object may be larger than that, alone.
    """

    endpoint: str
    timeout: float | None = 30.0
    concurrency: int = 32
    window: int = 64 * MIB
    tls: TlsConfig | None = None

    def __post_init__(self) -> None:
        timeout: object = self.timeout
        if timeout is not None and (
            not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout < 1e9
        ):
            raise InvalidArgument(f"timeout {timeout!r} is not a number of seconds above 0", hint="None waits for ever")
        for name, value in (("concurrency", self.concurrency), ("window", self.window)):
            checked: object = value
            if not isinstance(checked, int) or isinstance(checked, bool) or checked < 1:
                raise InvalidArgument(f"{name} {checked!r} is not a whole number above 0")
        if self.tls is not None and not isinstance(self.tls, TlsConfig):
            raise InvalidArgument(f"tls {self.tls!r} is not a TlsConfig")


def resolve_endpoint(argument: str | None, environment: Mapping[str, str] | None = None) -> str:
    """The endpoint of a cluster: the argument, else REEDBED_ENDPOINT, else 127.0.0.1:7300.

    HOST alone gets the default port. InvalidArgument for anything that is not an endpoint.
    """
    text: object = argument
    if text is None:
        environment = os.environ if environment is None else environment
        text = environment.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT
    if not isinstance(text, str):
        raise InvalidArgument(f"endpoint {text!r} is not text", hint=_HINT)
    if text.startswith("unix:") and len(text) > 5:
        return text
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(DEFAULT_PORT)
    if not _HOST.fullmatch(host) or not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise InvalidArgument(f"not an endpoint: {shown(text, 80)!r}", hint=_HINT)
    return f"{host}:{int(port)}"
