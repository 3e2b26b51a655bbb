"""In the fork server alone: imports what its ranks need. What cannot be is left to the rank.

Multiprocessing passes over an ImportError there, and any other error ends the server before it has
forked anybody. A rank imports the same again, and has somebody to tell.
"""

import gc
import os
from contextlib import suppress
from importlib import import_module

from refit.ranks.server import AHEAD

for _name in os.environ[AHEAD].split(","):
    with suppress(Exception):
        import_module(_name)

# what is here is never garbage; a rank that looked through it would copy its pages
gc.collect()
gc.freeze()
