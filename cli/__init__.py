"""The `reedbed` command."""
