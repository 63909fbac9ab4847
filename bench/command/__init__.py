"""Load generator, monitor and report: what `reedbed bench` runs, and scripts that measure or show one thing each."""
