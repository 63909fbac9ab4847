"""Devices that `reedbed up` brings to a cluster that has data: whoever says `--devices 8` wants eight to be used."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from reedbed.common.errors import ReedbedError


async def take_share(endpoint: str, numbers: Sequence[int], say: Callable[[str], None]) -> None:
    """Has the devices take their share; where that does not go, says how to do it later."""
    from reedbed.client.connect import connect_async

    command = shlex.join(["reedbed", "device", "add", *map(str, numbers), "--endpoint", endpoint])
    try:
        async with connect_async(endpoint) as store:
            told = await store.operate({"do": "add", "devices": list(numbers), "plan": False})
    except ReedbedError as error:
        say(f"new devices do not take their share yet: {error}. Try again with: {command}")
        return
    if told["positions"]:
        named = ", ".join(map(str, numbers))
        say(f"new devices {named} take their share: {told['positions']:,} positions move; see `reedbed status`")
