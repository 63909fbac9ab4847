"""Who a device is: the file `device.json` in its folder, and the folder's lock.

Layout of `device.json`, one JSON object in UTF-8, replaced as a whole (write beside it, fsync, rename, fsync folder):

    format       1; a higher one is refused
    cluster      id of the cluster, 32 hexadecimal digits
    device       id of the device, 32 hexadecimal digits
    incarnation  a new number after each cleaning or failure, from 1
    term         the highest catalog term that was seen
    salt         32 hexadecimal digits that seed the sums of record headers and never leave the device, so that nobody
                 can put bytes into an object that look like a record of this device
    failed       why the device takes no more writes, or the empty string
    cleaning     the incarnation that the device is being cleaned for, 0 or absent if it is not: what else is in the
                 folder counts for nothing then
    sum          `crc32c:` and base64, over the JSON of all other fields with sorted keys and no spaces

Invariants: a folder is served by one process at a time, which holds a flock on `lock`; a folder that holds anything
else but no `device.json` belongs to somebody else and is refused.
"""

from __future__ import annotations

import json
import random
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from reedbed.common.checksums import crc32c, format_checksum
from reedbed.common.errors import Corrupt, DeviceFailed, InvalidArgument, NewerFormat, ReedbedError, WrongCluster
from reedbed.storaged.cleaning import wipe
from reedbed.storaged.disk import Disk, RealDisk, read_whole, replace_whole
from reedbed.storaged.index import IndexHome
from reedbed.storaged.index_lmdb import FOLDER, LmdbHome

FORMAT: Final = 1
NAME: Final = "device.json"
LOCK: Final = "lock"
# Through a cleaning: a generation only rises, and what is remembered of the catalog is not the device's own
_KEPT: Final = frozenset({NAME, LOCK, "generations", "catalog", "map"})
_SIZE_MAX: Final = 64 * 1024
_SYSTEM: Final = random.SystemRandom()
_MAY_BE_THERE: Final = frozenset({LOCK, NAME + ".new", "lost+found"})  # before a device is made


@dataclass(frozen=True, slots=True)
class Identity:
    """The content of `device.json`. `cluster` and `device` are 16 bytes in hexadecimal digits."""

    cluster: str
    device: str
    incarnation: int
    term: int
    salt: str
    failed: str = ""
    cleaning: int = 0

    @property
    def seed(self) -> bytes:
        """16 bytes that seed record headers."""
        return bytes.fromhex(self.salt)


def check_cluster(cluster: bytes) -> str:
    """The id as text; InvalidArgument if it has not 16 bytes."""
    if len(cluster) != 16:
        raise InvalidArgument(f"a cluster id has 16 bytes, not {len(cluster)}")
    return cluster.hex()


def save(disk: Disk, identity: Identity) -> None:
    """Write the identity durably."""
    fields = {"format": FORMAT, **asdict(identity)}
    fields["sum"] = format_checksum(crc32c(_canonical(fields)))
    replace_whole(disk, NAME, json.dumps(fields, indent=1).encode())


def mend(disk: Disk, identity: Identity) -> bool:
    """Write the identity again if what the disk has of it is damaged or gone; whether it was. OSError."""
    try:
        file = disk.open(NAME)
        try:
            file.forget(0, file.size())
        finally:
            file.close()
        if load(disk) == identity:
            return False
    except (Corrupt, FileNotFoundError):
        pass
    save(disk, identity)
    return True


def load(disk: Disk) -> Identity | None:
    """The identity of the folder, None if it has none. Corrupt, or NewerFormat for that of a newer Reedbed."""
    where = str(disk.root / NAME)
    try:
        raw = read_whole(disk, NAME)
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(raw[:_SIZE_MAX])
        if not isinstance(fields, dict) or type(fields["format"]) is not int:
            raise ValueError("no format")
    except (ValueError, KeyError, RecursionError):
        raise _corrupt(where) from None
    if fields["format"] > FORMAT:
        raise NewerFormat(
            f"the device folder has format {fields['format']}, this Reedbed knows up to {FORMAT}",
            where=where,
            hint="Use the Reedbed that wrote it, or a newer one",
        )
    expected = fields.pop("sum", None)
    if fields.pop("format") != FORMAT or expected != format_checksum(crc32c(_canonical({"format": FORMAT, **fields}))):
        raise _corrupt(where)
    try:
        identity = Identity(**fields)
        uuid.UUID(hex=identity.cluster), uuid.UUID(hex=identity.device), uuid.UUID(hex=identity.salt)
    except (TypeError, ValueError, AttributeError):
        raise _corrupt(where) from None
    return identity


def open_or_create(
    disk: Disk,
    cluster: bytes,
    device: uuid.UUID | None = None,
    home: IndexHome | None = None,
    rng: random.Random = _SYSTEM,
) -> Identity:
    """The identity of a folder of this cluster, made if the folder is empty. The caller holds the lock.

    `home` is where its index is, if not in LMDB; `rng` gives ids and salts, which nobody may foresee.

    Raises WrongCluster, NewerFormat, Corrupt, and InvalidArgument for a folder with other things in it or, where
    `device` is given, of another device.
    """
    wanted = check_cluster(cluster)
    identity = load(disk)
    if identity is None:
        strange = [name for name in disk.names() if name not in _MAY_BE_THERE]
        if strange:
            raise InvalidArgument(
                f"the folder is not a device and not empty: it holds {strange[0]!r}",
                where=str(disk.root),
                hint="Name an empty or new folder",
            )
        made = device or uuid.UUID(bytes=rng.randbytes(16), version=4)
        identity = Identity(wanted, made.hex, 1, 0, rng.randbytes(16).hex())
        save(disk, identity)
        return identity
    if identity.cluster != wanted:
        raise WrongCluster(
            f"the device folder belongs to cluster {identity.cluster}, not {wanted}",
            where=str(disk.root),
            hint="Name the folder of this cluster, or an empty one",
        )
    if device is not None and identity.device != device.hex:
        raise InvalidArgument(f"the folder is that of device {identity.device}, not {device.hex}", where=str(disk.root))
    return _cleaned(disk, identity, home, rng) if identity.cleaning else identity


def clean(disk: Disk, incarnation: int, home: IndexHome | None = None, rng: random.Random = _SYSTEM) -> Identity:
    """Start the device of a folder anew, without a shard, as this incarnation. The caller holds the lock.

    Durable on return; where it was interrupted, the next `open_or_create` ends it. InvalidArgument unless the
    incarnation is a new one, or the folder is no device's; Corrupt, NewerFormat.
    """
    identity = load(disk)
    if identity is None or incarnation <= identity.incarnation:
        raise InvalidArgument(
            f"incarnation {incarnation} is none to clean this folder for: it is of "
            f"{'no device' if identity is None else identity.incarnation}",
            where=str(disk.root),
        )
    begun = replace(identity, cleaning=incarnation)
    save(disk, begun)
    return _cleaned(disk, begun, home, rng)


def known_cluster(folder: Path) -> bytes:
    """The cluster of the device in a folder, empty for one that is new. Corrupt, NewerFormat, DeviceFailed."""
    try:
        known = load(RealDisk(folder)) if folder.is_dir() else None
    except ReedbedError:  # some are an OSError too
        raise
    except OSError as error:
        raise DeviceFailed(f"the device cannot be read: {error.strerror}", where=str(folder)) from error
    return b"" if known is None else bytes.fromhex(known.cluster)


def clean_folder(folder: Path, incarnation: int) -> None:
    """`clean` the device in a folder that nobody serves. Also raises Unavailable for one that somebody does."""
    disk = RealDisk(folder)
    unlock = disk.lock(LOCK)
    try:
        clean(disk, incarnation)
    finally:
        unlock()


def _cleaned(disk: Disk, identity: Identity, home: IndexHome | None, rng: random.Random) -> Identity:
    wipe(disk, home or LmdbHome(disk.root / FOLDER, lambda _: ""), keep=_KEPT)
    # another salt, so that no record that some block of the disk still holds is ever taken for one of this incarnation
    cleaned = replace(identity, incarnation=identity.cleaning, cleaning=0, salt=rng.randbytes(16).hex())
    save(disk, cleaned)
    return cleaned


def _canonical(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _corrupt(where: str) -> Corrupt:
    return Corrupt(
        "the identity of the device is truncated or altered",
        where=where,
        hint="Clear the folder and add it as a new device; its shards are rebuilt from the others",
    )
