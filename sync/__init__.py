"""The cross-cloud sync job. Not built yet: the log that it will follow is (reedbed.catalog)."""
