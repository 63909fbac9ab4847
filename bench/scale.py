"""`reedbed bench scale`, for those who look here; the code is in bench/command/."""

import os
import sys

os.execv(sys.executable, [sys.executable, "-m", "reedbed.cli", "bench", "scale", *sys.argv[1:]])
