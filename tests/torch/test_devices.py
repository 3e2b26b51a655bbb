"""What is read of the installed torch without importing it, held against what it says itself."""

import torch

from refit.rules import devices


def test_the_cuda_of_the_installed_torch_is_torchs_own() -> None:
    own = torch.version.cuda
    assert devices.torch_cuda() == (int(own.partition(".")[0]) if own else None)
