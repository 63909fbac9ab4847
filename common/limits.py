"""Limits and defaults, named once; relations between them are asserted here when the module is loaded."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# Names and objects
BUCKET_NAME_MIN: Final = 3
BUCKET_NAME_MAX: Final = 63
KEY_MAX: Final = 1024  # bytes of UTF-8
METADATA_MAX: Final = 8 * KIB  # all names and values of one version together, bytes
CONTENT_TYPE_MAX: Final = 256
OBJECT_MAX: Final = 1 << 50

# Coding
K_MAX: Final = 32
M_MAX: Final = 8
POSITIONS_MAX: Final = 40
BLOCK: Final = 64 * KIB  # unit of checksums
SHARD_MAX: Final = GIB  # what the format can say
SHARD_DEFAULT: Final = 4 * MIB
SMALL_SHARD: Final = 64 * KIB  # one data shard more for each of these, up to k

# Transport
PROTOCOL_VERSION: Final = 1
CHUNK: Final = MIB  # a piece of a large payload
HEADER_MAX: Final = 4 * MIB  # of one call
PAYLOAD_MAX: Final = 64 * MIB  # of one call, each way
WINDOW: Final = 64 * MIB  # byte credits of a lane, each way; a call's payload is admitted whole
MESSAGE_MAX: Final = 8 * MIB  # of one gRPC message
FRAMES_MAX: Final = 16 * KIB  # of one message
CALLS_MAX: Final = 1024  # calls under way in one lane
LANES_MAX: Final = 4096  # lanes that one daemon serves
LANES_OF_DAEMONS: Final = 512  # of them, kept free for other daemons when clients are many

# Catalog
PAGE_MAX: Final = 1000  # rows of one page of a listing
COMMIT_OPS_MAX: Final = 1000  # operations of one commit call
SLICES_INLINE_MAX: Final = 64  # slices kept within a version's own record
SLICES_CHUNK: Final = 256  # slices of one chunk row
SLICES_PER_COMMIT: Final = 4096  # a longer object registers its extents with an upload first
ID_BLOCK_IDS: Final = 1 << 20  # ids of one leased block
HORIZON_LAG_S: Final = 15 * 60.0
UPLOAD_IDLE_S: Final = 7 * 24 * 3600.0
LOG_WAIT_MAX_S: Final = 60.0
COMPACT_BELOW: Final = 50  # percent of its cost that what is live in an extent is worth
COMPACT_BELOW_MAX: Final = 75
CATALOG_RESERVE: Final = 64 * MIB  # of the catalog's disk: for what makes room only

# Cluster
MAP_MAX: Final = 3 * MIB  # of the cluster map in a message's header
PGS_PER_DEVICE: Final = 100  # and profile
DEVICES_MAX: Final = 10_000
HEARTBEAT_S: Final = 1.0
DOWN_AFTER_S: Final = 5.0
OUT_AFTER_S: Final = 600.0
DELETE_GRACE_S: Final = 24 * 3600.0
READ_DEADLINE_MAX_S: Final = 3600.0
ADDRESS_MAX: Final = 300  # characters

# Ports and addresses
DEFAULT_PORT: Final = 7300
DEFAULT_ENDPOINT: Final = f"127.0.0.1:{DEFAULT_PORT}"

assert K_MAX + M_MAX <= POSITIONS_MAX
assert SHARD_DEFAULT <= PAYLOAD_MAX <= WINDOW
assert CHUNK + HEADER_MAX < MESSAGE_MAX
assert MAP_MAX < HEADER_MAX
assert DOWN_AFTER_S > 2 * HEARTBEAT_S
assert OUT_AFTER_S > 2 * DOWN_AFTER_S
assert DELETE_GRACE_S >= READ_DEADLINE_MAX_S
