"""The vocabulary of every other room: ids, errors, limits, checksums, clock, configuration, logs, metrics."""
