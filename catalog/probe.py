"""Whether anybody listens at an address: how a device that was restarted is told from one that is there twice."""

from __future__ import annotations

import asyncio
from typing import Final

PROBE_S: Final = 1.0


async def listens(address: str) -> bool:
    """False only if the machine at HOST:PORT (or unix:PATH) says that nobody does; silence proves nothing."""
    try:
        async with asyncio.timeout(PROBE_S):
            if address.startswith("unix:"):
                _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
            else:
                host, _, port = address.rpartition(":")
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:  # TimeoutError among them
        return True
    writer.close()
    return True
