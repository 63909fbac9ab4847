"""What the SDK and the command do about the process that they run in: its standard streams, its temporary files."""

from __future__ import annotations

import os
from typing import Final

PART_PREFIX: Final = ".reedbed-"  # of names of temporary files; 16 hexadecimal digits follow

_STANDARD: Final = (0, 1, 2)


def fill_standard() -> None:
    """Opens /dev/null at each of the first three descriptors that is closed.

    The next file or socket would get its number, and be taken for it: uvloop ends the process where that is its own.
    """
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
