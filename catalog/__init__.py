"""catalogd: namespace, commits, log, cluster map and placement on an ordered transactional engine."""
