"""What this client knows of where versions lie: answers of the catalog that were read lately.

None of it is used without the catalog's word in the same read: a lookup carries the token of what is known, and the
catalog says whether its answer would be the same. So what another client has committed is read from then on, whatever
is known here; knowing saves the catalog and the wire an answer, and lets a small read be sent along with its lookup.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from reedbed.client.targets import Content, Target
from reedbed.common.limits import MIB

KNOWN_BYTES: Final = 32 * MIB  # about
_ENTRY: Final = 900  # bytes of an object with one slice, its key apart
_SLICE: Final = 200


class Known:
    """Contents by target, those that were used last. Only within the store's event loop."""

    def __init__(self, limit: int = KNOWN_BYTES) -> None:
        self._limit = limit
        self._contents: OrderedDict[Target, Content] = OrderedDict()
        self.bytes = 0

    def get(self, target: Target) -> Content | None:
        """What is known of it, which counts as used."""
        content = self._contents.get(target)
        if content is not None:
            self._contents.move_to_end(target)
        return content

    def keep(self, target: Target, content: Content) -> None:
        """An answer that has a token, instead of what was known."""
        self.forget(target)
        self._contents[target] = content
        self.bytes += _cost(target, content)
        while self.bytes > self._limit:
            self.bytes -= _cost(*self._contents.popitem(last=False))

    def forget(self, target: Target) -> None:
        """What was known of it did not serve, or is over."""
        content = self._contents.pop(target, None)
        if content is not None:
            self.bytes -= _cost(target, content)


def _cost(target: Target, content: Content) -> int:
    return _ENTRY + len(target.key) + _SLICE * len(content.slices) + len(content.raw_info)
