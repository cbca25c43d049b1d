"""Deterministic mode: the same layout on the same devices computes the same bits, run after run.

On a CPU it always does. On a GPU some kernels add in whatever order their threads come; PyTorch, cuBLAS and Transformer
Engine have switches against it, which have to be set before CUDA starts. Not yet run on a GPU.
"""

from __future__ import annotations

import os

import torch

from megatron_mmbert.utils.errors import UserError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED_WORKSPACES = (":4096:8", ":16:8")  # those with which cuBLAS' sums have one order, by its manual


def switch_on() -> None:
    """Have every operation of this process be deterministic, or raise where it cannot be.

    Raises:
        UserError: the environment asks cuBLAS for workspaces of its own choice.
    """
    asked = os.environ.setdefault(_WORKSPACE, _FIXED_WORKSPACES[0])
    if asked not in _FIXED_WORKSPACES:
        raise UserError(
            f"{_WORKSPACE}={asked}: not deterministic; unset it or make it one of {', '.join(_FIXED_WORKSPACES)}"
        )
    os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # we read none, and writing to it costs time
