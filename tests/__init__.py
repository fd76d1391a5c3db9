"""Tests of salhub."""

import os

import torch

if not torch.cuda.is_available():
    # Kernels of GPUs are interpreted; triton reads this while it is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")
