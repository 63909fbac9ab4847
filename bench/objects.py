"""`reedbed bench objects`, for those who look here; the code is in bench/command/."""

import os
import sys

os.execv(sys.executable, [sys.executable, "-m", "reedbed.cli", "bench", "objects", *sys.argv[1:]])
