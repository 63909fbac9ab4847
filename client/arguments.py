"""Checks of what callers pass, before anything is sent: each returns the value to use or raises InvalidArgument."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Final

from reedbed.common.checksums import parse_checksum
from reedbed.common.errors import InvalidArgument
from reedbed.common.ids import Id, parse_id
from reedbed.ec.profiles import Profile, parse_profile
from reedbed.protos import catalog_pb2
from reedbed.protos.names import check_bucket, check_metadata, encode_key, shown

_FIELD_NAME: Final = re.compile(r":[^:]*:")  # in the format of a structured array (PEP 3118)


def bucket_name(name: object) -> str:
    """A bucket's name within S3's rules."""
    if not isinstance(name, str):
        raise InvalidArgument(f"bucket {name!r} is not text")
    return check_bucket(name)


def key_bytes(key: object) -> bytes:
    """The UTF-8 of a key."""
    if not isinstance(key, str):
        hint = "Decode it: keys are str" if isinstance(key, bytes) else "Keys are str"
        raise InvalidArgument(f"key {shown(repr(key), 80)} is not text", hint=hint)
    return encode_key(key)


def text_bytes(text: object, what: str) -> bytes:
    """The UTF-8 of a prefix, delimiter or start of a listing; empty for None."""
    if text is None:
        return b""
    if not isinstance(text, str):
        raise InvalidArgument(f"{what} {shown(repr(text), 80)} is not text")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} {shown(text)!r} is not UTF-8") from None


def flag(value: object, what: str) -> bool:
    """A bool; nothing else is taken for one."""
    if not isinstance(value, bool):
        raise InvalidArgument(f"{what}={value!r} is neither True nor False")
    return value


def position(value: object, what: str) -> int:
    """A whole number of bytes, 0 or more."""
    try:
        number = operator.index(value) if not isinstance(value, bool) else -1  # type: ignore[arg-type]
    except TypeError:
        raise InvalidArgument(f"{what}={value!r} is not a whole number") from None
    if number < 0:
        raise InvalidArgument(f"{what}={value!r} is not 0 or more", hint="Positions count bytes from the start")
    return number


def span(start: object, end: object) -> tuple[int, int | None]:
    """A range of bytes, `end` exclusive and None for the object's end."""
    first = position(start, "start")
    last = None if end is None else position(end, "end")
    if last is not None and last < first:
        raise InvalidArgument(f"range ends at {last}, before its start {first}")
    return first, last


def clip(start: int, end: int | None, size: int, where: str) -> tuple[int, int]:
    """The range within an object of `size` bytes; InvalidArgument where it starts past the end."""
    if start > size:
        raise InvalidArgument(f"range starts at {start}, past the end of {size} bytes", where=where)
    return start, size if end is None else min(end, size)


def version_id(version: object) -> Id | None:
    """The id of a version as `stat` shows it, None for the latest."""
    if version is None:
        return None
    if not isinstance(version, str):
        raise InvalidArgument(f"version {version!r} is not text", hint="Pass the `version` of an ObjectInfo")
    return parse_id(version)


def profile_or_none(profile: object) -> Profile | None:
    """A profile by name, None for the bucket's."""
    if profile is None:
        return None
    if not isinstance(profile, str):
        raise InvalidArgument(f"profile {profile!r} is not text", hint="It reads as in rs-4-2")
    return parse_profile(profile)


def checksum_value(checksum: object) -> int | None:
    """The CRC32C that the caller expects, None for none."""
    if checksum is None:
        return None
    if not isinstance(checksum, str):
        raise InvalidArgument(f"checksum {checksum!r} is not text", hint="It reads as in crc32c:AAAAAA==")
    return parse_checksum(checksum)


def metadata_of(metadata: object, content_type: object) -> tuple[dict[str, str], str]:
    """Metadata and content type of a version, within their limits."""
    if content_type is not None and not isinstance(content_type, str):
        raise InvalidArgument(f"content_type {content_type!r} is not text")
    if content_type is not None:
        text_bytes(content_type, "content_type")
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, Mapping):
        raise InvalidArgument(f"metadata {metadata!r} is not a mapping", hint="It maps str to str")
    checked = dict(metadata)
    check_metadata(checked, content_type)
    return checked, content_type or ""


def condition_of(if_none_match: object, if_match: object) -> catalog_pb2.Condition | None:
    """The condition of a commit, None for none."""
    absent = flag(if_none_match, "if_none_match")
    if if_match is None:
        return catalog_pb2.Condition(if_none_match=True) if absent else None
    if not isinstance(if_match, str) or not if_match:
        raise InvalidArgument(f"if_match {if_match!r} is not an etag", hint="Pass the `etag` of an ObjectInfo")
    if absent:
        raise InvalidArgument("if_match and if_none_match exclude each other")
    text_bytes(if_match, "if_match")
    return catalog_pb2.Condition(if_match=if_match)


def flat_view(buffer: object, what: str = "data") -> memoryview:
    """A view of the buffer's bytes without a copy; the buffer must be C-contiguous."""
    try:
        view = memoryview(buffer)  # type: ignore[arg-type]
    except TypeError:
        return _tensor_view(buffer, what)
    except (ValueError, BufferError) as error:
        raise InvalidArgument(f"{what}: {error}", hint="Pass a view of it as bytes") from None
    if "O" in _FIELD_NAME.sub("", view.format):
        raise InvalidArgument(f"{what} holds Python objects, not bytes", hint="Give the array a dtype of plain numbers")
    if not view.c_contiguous:
        raise InvalidArgument(f"{what} is not C-contiguous", hint="Copy it into one that is, as ascontiguousarray does")
    if view.ndim == 1 and view.format == "B":
        return view
    # cast does not take shapes with a zero in them
    return view.cast("B") if view.nbytes else memoryview(b"" if view.readonly else bytearray())


def _tensor_view(buffer: object, what: str) -> memoryview:
    """A torch tensor on the CPU has no buffer itself, but shares its memory with a numpy array."""
    as_array = getattr(buffer, "numpy", None)
    if callable(as_array) and hasattr(buffer, "is_contiguous"):
        try:
            return flat_view(as_array(), what)
        except (RuntimeError, TypeError, ValueError) as error:
            raise InvalidArgument(f"{what}: {error}", hint="Only tensors in the CPU's memory have buffers") from None
    kind = type(buffer).__name__
    raise InvalidArgument(f"{what} of type {kind} has no buffer of bytes", hint="Pass bytes, or another buffer")


def writable_view(buffer: object) -> memoryview:
    """A view to write into."""
    view = flat_view(buffer, "buffer")
    if view.readonly:
        raise InvalidArgument("buffer is read-only", hint="Pass a bytearray, a numpy array or another writable buffer")
    return view
