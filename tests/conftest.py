"""For all tests: Ctrl-C reaches the programs under test.

A shell without job control starts what it puts in the background, pytest say, with SIGINT ignored,
and all its children inherit that.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
