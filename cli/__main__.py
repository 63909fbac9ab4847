"""`python -m reedbed.cli`: the `reedbed` command without its script, for the daemons that `reedbed up` starts."""

from reedbed.cli.main import main

main()
