"""The read cache, in process and in Redis. Not built yet: every read goes to the cluster (see docs/architecture.md)."""
