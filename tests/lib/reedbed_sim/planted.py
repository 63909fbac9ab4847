"""Bugs that are planted on purpose, by name: the simulation must find each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def planted(name: str) -> Iterator[None]:
    yield
