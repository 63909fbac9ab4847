"""The rules for names that come from outside, checked by the SDK before sending and by the catalog before storing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from reedbed.common import limits
from reedbed.common.errors import InvalidArgument

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")
_BUCKET_HINT = (
    "A bucket name has 3 to 63 lower-case letters, digits, dots and hyphens, begins and ends with a letter or digit, "
    "has no two dots in a row and is no IP address"
)


def shown(name: str | bytes, limit: int = 200) -> str:
    """A name as a terminal may show it: control characters and what is not UTF-8 escaped, cut at `limit`."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    return text if len(text) <= limit else text[:limit] + "…"


@lru_cache(1024)
def check_bucket(name: str) -> str:
    """The name, if S3's rules allow it for a bucket; else InvalidArgument."""
    if not _BUCKET.fullmatch(name) or ".." in name or _ADDRESS.fullmatch(name):
        raise InvalidArgument(f"not a bucket name: {shown(name, 80)!r}", hint=_BUCKET_HINT)
    if name.startswith(("xn--", "sthree-", "amzn-s3-demo-")) or name.endswith(
        ("-s3alias", "--ol-s3", ".mrap", "--x-s3")
    ):
        raise InvalidArgument(
            f"bucket name {name!r} has a prefix or ending that S3 keeps for itself", hint=_BUCKET_HINT
        )
    return name


def encode_key(key: str) -> bytes:
    """The key's UTF-8 bytes; InvalidArgument if it is empty, too long or not text that UTF-8 can hold."""
    try:
        raw = key.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgument(
            f"key {shown(key)!r} is not UTF-8", hint="Keys are Unicode text without lone surrogates"
        ) from None
    return raw if 0 < len(raw) <= limits.KEY_MAX else check_key(raw)


def check_key(raw: bytes) -> bytes:
    """The key, if it is 1 to 1,024 bytes of UTF-8; else InvalidArgument."""
    if not raw:
        raise InvalidArgument("the key is empty", hint="A key has 1 to 1,024 bytes of UTF-8")
    if len(raw) > limits.KEY_MAX:
        raise InvalidArgument(
            f"key of {len(raw)} bytes is longer than {limits.KEY_MAX}: {shown(raw, 60)!r}", hint="Choose a shorter key"
        )
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidArgument(f"key {shown(raw)!r} is not UTF-8", hint="Keys are UTF-8 text") from None
    return raw


def check_metadata(metadata: Mapping[str, str], content_type: str | None) -> None:
    """InvalidArgument unless all names and values are text and their size together is within the limit."""
    total = 0
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, str) or not name:
            raise InvalidArgument(
                f"metadata {name!r}={value!r} is not text", hint="Names and values are str, names not empty"
            )
        try:
            total += len(name.encode("utf-8")) + len(value.encode("utf-8"))
        except UnicodeEncodeError:
            raise InvalidArgument(f"metadata {shown(name)!r} is not UTF-8") from None
    if total > limits.METADATA_MAX:
        raise InvalidArgument(f"metadata of {total} bytes is over the limit of {limits.METADATA_MAX}")
    if content_type is not None and len(content_type.encode("utf-8", "replace")) > limits.CONTENT_TYPE_MAX:
        raise InvalidArgument(f"content type is longer than {limits.CONTENT_TYPE_MAX} bytes")
