"""In the fork server alone: imports what its ranks need. What cannot be is left to the rank.

Multiprocessing passes over an ImportError there, and any other error ends the server before it has
forked anybody. A rank imports the same again, and has somebody to tell.

Once a process has asked CUDA anything, those that are forked from it cannot use it. Whether an
import asks depends on what else is installed; where one did, the server begins anew without it.
"""

import gc
import os
import sys
from contextlib import suppress
from importlib import import_module

from refit.ranks.server import AHEAD, ALWAYS
from refit.rules import devices

NO_USE = ("wandb",)
"""What megatron-core imports where it finds it, and no rank needs: 0.7 s."""


def _spoiled() -> bool:
    """Whether a process that is forked from this one cannot use CUDA: one tries."""
    pid = os.fork()
    if not pid:
        with suppress(Exception):
            sys.modules["torch"].zeros(1, device="cuda")
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] != 0


# has torch ask the driver's library, and not CUDA, whether there is a GPU
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
_names = os.environ[AHEAD].split(",")
_hidden = [_name for _name in NO_USE if _name not in sys.modules]
for _name in _hidden:
    sys.modules[_name] = None  # type: ignore[assignment]  # then it is not found
for _name in _names:
    with suppress(Exception):
        import_module(_name)
for _name in _hidden:
    del sys.modules[_name]
_more = not set(_names) <= set(ALWAYS) and "torch" in sys.modules
if _more and not devices.no_cuda() and _spoiled():
    os.environ[AHEAD] = ",".join(ALWAYS)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

# what is here is never garbage; a rank that looked through it would copy its pages
gc.collect()
gc.freeze()
