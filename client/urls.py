"""URLs of objects: `reedbed://bucket/key`.

Keys are raw: `%`, `?`, `#`, `//` and a trailing `/` are bytes of the key.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from reedbed.common.errors import InvalidArgument
from reedbed.protos.names import check_bucket, encode_key, shown

SCHEME: Final = "reedbed://"


class ObjectUrl(NamedTuple):
    """What a URL names; an empty key stands for the bucket itself."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return format_url(self.bucket, self.key)


def is_url(text: str) -> bool:
    """Whether the text means a place in a cluster, rather than a local path."""
    return text.startswith(SCHEME)


def parse_url(text: str) -> ObjectUrl:
    """Bucket and key of a URL, nothing decoded; the key is empty for `reedbed://bucket` and `reedbed://bucket/`.

    InvalidArgument for other schemes, for bucket names outside S3's rules and for keys that no object can have.
    """
    given: object = text
    if not isinstance(given, str) or not is_url(text):
        raise InvalidArgument(f"not a URL of Reedbed: {shown(str(text), 80)!r}", hint="It reads reedbed://bucket/key")
    bucket, _, key = text[len(SCHEME) :].partition("/")
    check_bucket(bucket)
    if key:
        encode_key(key)
    return ObjectUrl(bucket, key)


def format_url(bucket: str, key: str = "") -> str:
    """The URL that `parse_url` takes apart."""
    return f"{SCHEME}{bucket}/{key}"
