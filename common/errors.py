"""Every error that Reedbed raises, and the one table that carries them over the wire.

An error says what happened, where, what to do (`hint`), whether trying again can help (`retryable`) and whether the
operation may have been applied although its answer was lost (`maybe_applied`). Names follow S3, gRPC and fsspec; each
class also derives from the built-in exception that Python's data tools already catch.
"""

from __future__ import annotations

from typing import ClassVar


class ReedbedError(Exception):
    """The base of all errors of Reedbed. `code` is the stable name that travels on the wire and in `--json`."""

    code: ClassVar[str] = "Error"
    retry_default: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        hint: str = "",
        retryable: bool | None = None,
        maybe_applied: bool = False,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.retryable = self.retry_default if retryable is None else retryable
        self.maybe_applied = maybe_applied

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.maybe_applied:
            text += "; the outcome is unknown: it may have been applied"
        if self.hint:
            text += f". {self.hint}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return (rebuild, (self.code, self.what, self.where, self.hint, self.retryable, self.maybe_applied))


class NotFound(ReedbedError, FileNotFoundError):
    """A bucket, object, version or upload that does not exist."""

    code = "NotFound"
    exit_code = 4


class UnknownShard(NotFound):
    """A device does not hold the shard that was asked for."""

    code = "UnknownShard"
    retry_default = True


class LogTrimmed(NotFound):
    """A log position below the log's floor: start again from a full listing."""

    code = "LogTrimmed"


class LogLost(LogTrimmed):
    """A log position that this catalog does not have, since it was restored or rebuilt: start again from a listing."""

    code = "LogLost"


class AlreadyExists(ReedbedError, FileExistsError):
    """A bucket, object, device or shard of that name with other content exists."""

    code = "AlreadyExists"
    exit_code = 5


class PreconditionFailed(ReedbedError):
    """`if_match` or `if_none_match` did not hold when the commit was decided."""

    code = "PreconditionFailed"
    exit_code = 6


class StaleGeneration(PreconditionFailed):
    """A shard operation named a placement group's older generation: refresh the map and try again."""

    code = "StaleGeneration"
    retry_default = True


class StaleTerm(PreconditionFailed):
    """An order or answer of a catalog that has been replaced by one with a higher term."""

    code = "StaleTerm"


class DeviceRemoved(PreconditionFailed):
    """A device that was taken out of the cluster for good, and comes back."""

    code = "DeviceRemoved"


class BelowHorizon(PreconditionFailed):
    """A commit id or new extent id below the horizon: the work took too long without registering its extents."""

    code = "BelowHorizon"


class InvalidArgument(ReedbedError, ValueError):
    """Input that can never be right: a name, size, range, profile, message or option."""

    code = "InvalidArgument"
    exit_code = 2


class WrongCluster(InvalidArgument):
    """A daemon or folder that belongs to another cluster."""

    code = "WrongCluster"


class WrongProtocol(InvalidArgument):
    """Something that answers, but is not a Reedbed daemon or speaks another version of its protocol."""

    code = "WrongProtocol"


class NewerFormat(InvalidArgument):
    """A file or folder written by a newer Reedbed than this one."""

    code = "NewerFormat"


class ForkedStore(ReedbedError, RuntimeError):
    """A store was used in a process forked from the one that opened it."""

    code = "ForkedStore"


class Unavailable(ReedbedError, ConnectionError):
    """A daemon cannot be reached, or too few devices are up for what was asked."""

    code = "Unavailable"
    retry_default = True
    exit_code = 7


class DeadlineExceeded(ReedbedError, TimeoutError):
    """The deadline passed before the answer came."""

    code = "DeadlineExceeded"
    retry_default = True
    exit_code = 8


class Cancelled(ReedbedError):
    """The caller gave the call up before its answer came."""

    code = "Cancelled"


class PermissionDenied(ReedbedError, PermissionError):
    """The caller may not do this."""

    code = "PermissionDenied"
    exit_code = 9


class ResourceExhausted(ReedbedError, OSError):
    """A limit is reached: room on a disk, memory, concurrent work."""

    code = "ResourceExhausted"
    retry_default = True
    exit_code = 10


class DiskFull(ResourceExhausted):
    """A device or catalog disk has no room left but its reserve; reads and deletes still work."""

    code = "DiskFull"
    retry_default = False


class DeviceFailed(Unavailable):
    """A device that takes no more writes, since its disk failed or it cannot reach its catalog."""

    code = "DeviceFailed"


class Corrupt(ReedbedError, OSError):
    """Bytes that do not match their checksum, or a file or message that is truncated or altered."""

    code = "Corrupt"
    exit_code = 11


class DamagedShard(Corrupt):
    """A shard on a device whose stored bytes no longer match their checksums."""

    code = "DamagedShard"
    retry_default = True


class DataLoss(ReedbedError, OSError):
    """Too few good shards are left to decode an extent."""

    code = "DataLoss"
    exit_code = 12


class NotEmpty(ReedbedError, OSError):
    """A bucket that still holds objects."""

    code = "NotEmpty"
    exit_code = 13


def _all_subclasses(cls: type[ReedbedError]) -> list[type[ReedbedError]]:
    found = [cls]
    for sub in cls.__subclasses__():
        found.extend(_all_subclasses(sub))
    return found


BY_CODE: dict[str, type[ReedbedError]] = {cls.code: cls for cls in _all_subclasses(ReedbedError)}


def rebuild(
    code: str, what: str, where: str = "", hint: str = "", retryable: bool = False, maybe_applied: bool = False
) -> ReedbedError:
    """The error that `code` names; an unknown code (of a newer peer) gives a plain ReedbedError that quotes it."""
    cls = BY_CODE.get(code)
    if cls is None:
        cls, what = ReedbedError, f"{code}: {what}"
    return cls(what, where=where, hint=hint, retryable=retryable, maybe_applied=maybe_applied)
