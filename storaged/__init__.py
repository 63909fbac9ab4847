"""The storage daemon: the shard store on disk and the service that exposes it."""
