"""What holds for all tests."""

import signal

from hypothesis import settings

# A shell that runs tests in the background has them ignore Ctrl-C, and so all that they start; some tests are about it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts a time, so examples have no deadline either; a failure prints what makes it happen again.
settings.register_profile("reedbed", deadline=None, print_blob=True)
settings.load_profile("reedbed")
