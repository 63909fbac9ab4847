"""Names of all calls, with the messages of protos/*.proto that are their headers."""

from __future__ import annotations

from typing import Final

# storaged
PUT_SHARD: Final = "shard.put"  # PutShardRequest -> PutShardReply
READ_SHARDS: Final = "shard.read"  # ReadShardsRequest -> ReadShardsReply
LIST_SHARDS: Final = "shard.list"  # ListShardsRequest -> ListShardsReply
START_SCRUB: Final = "scrub.start"  # StartScrubRequest -> StartScrubReply
STORAGE_STATUS: Final = "storaged.status"  # StorageStatusRequest -> StorageStatusReply
REMEMBER: Final = "catalog.remember"  # RememberRequest -> RememberReply
RECALL: Final = "catalog.recall"  # RecallRequest -> RecallReply
CLAIM: Final = "catalog.claim"  # ClaimRequest -> ClaimReply

# catalogd, objects
COMMIT: Final = "commit"  # CommitRequest -> CommitReply
LOOKUP: Final = "lookup"  # LookupRequest -> LookupReply
SLICES: Final = "slices"  # SlicesRequest -> SlicesReply
LIST: Final = "list"  # ListRequest -> ListReply
LIST_VERSIONS: Final = "list.versions"  # ListVersionsRequest -> ListReply
CREATE_BUCKET: Final = "bucket.create"  # CreateBucketRequest -> Bucket
DELETE_BUCKET: Final = "bucket.delete"  # BucketRequest -> Empty
STAT_BUCKET: Final = "bucket.stat"  # BucketRequest -> Bucket
LIST_BUCKETS: Final = "bucket.list"  # ListBucketsRequest -> ListBucketsReply
BEGIN_UPLOAD: Final = "upload.begin"  # BeginUploadRequest -> Empty
REGISTER: Final = "upload.register"  # RegisterRequest -> Empty
ABORT_UPLOAD: Final = "upload.abort"  # AbortUploadRequest -> Empty
LIST_UPLOADS: Final = "upload.list"  # ListUploadsRequest -> ListUploadsReply
READ_LOG: Final = "log.read"  # ReadLogRequest -> ReadLogReply

# catalogd, cluster
LEASE_IDS: Final = "ids.lease"  # LeaseRequest -> LeaseReply
GET_MAP: Final = "map.get"  # MapRequest -> MapDelta
ENSURE_PROFILE: Final = "profile.ensure"  # EnsureProfileRequest -> MapDelta
REGISTER_DEVICE: Final = "device.register"  # RegisterDeviceRequest -> RegisterDeviceReply
HEARTBEAT: Final = "heartbeat"  # HeartbeatRequest -> HeartbeatReply
CATALOG_STATUS: Final = "catalog.status"  # CatalogStatusRequest -> CatalogStatusReply
COMPARE: Final = "device.compare"  # CompareRequest -> CompareReply
COMPARE_SHARDS: Final = "device.compare.shards"  # CompareShardsRequest -> CompareShardsReply
TASKS: Final = "tasks"  # TasksRequest -> TasksReply
OPERATE: Final = "operate"  # OperateRequest -> OperateReply
BACKUP: Final = "catalog.backup"  # BackupRequest -> BackupReply
HELD: Final = "catalog.held"  # OperateRequest -> OperateReply
ACKNOWLEDGE: Final = "catalog.acknowledge"  # OperateRequest -> OperateReply
