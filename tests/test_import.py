"""Importing the package changes nothing of the program that imports it: torch, Megatron-Core, and the process stay."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

LIST_FOREIGN = """
    import importlib, pkgutil, sys
    import megatron_mmbert
    for found in pkgutil.walk_packages(megatron_mmbert.__path__, "megatron_mmbert."):
        importlib.import_module(found.name)
    print(" ".join(name for name in sys.modules if name.split(".")[0] not in ("megatron_mmbert", "__main__")))
"""

# The foreign modules first, so that what they themselves change is changed already.
COMPARE = """
    import importlib, logging, os, pkgutil, random, signal, sys, warnings
    for name in sys.argv[1].split():
        try:
            importlib.import_module(name)
        except Exception:
            pass
    import numpy, torch
    import torch._dynamo.eval_frame

    def state():
        owners = [module for name, module in list(sys.modules.items()) if name.split(".")[0] in ("torch", "megatron")]
        owners += [each for owner in list(owners) for each in vars(owner).values() if isinstance(each, type)]
        names = {(id(owner), repr(owner)[:80], name): id(value)
                 for owner in owners for name, value in list(vars(owner).items())}
        return names | {
            "warnings": list(warnings.filters),
            "environment": dict(os.environ),
            "stance": torch._dynamo.eval_frame._stance.stance,
            "threads": torch.get_num_threads(),
            "dtype": torch.get_default_dtype(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "fp32 products": torch.backends.mkldnn.matmul.fp32_precision,
            "random": (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
            "signals": [signal.getsignal(number) for number in signal.valid_signals()],
            "logging": [(name, logger.level, len(logger.filters), len(logger.handlers))
                        for name, logger in sorted(logging.root.manager.loggerDict.items())
                        if isinstance(logger, logging.Logger) and not name.startswith("megatron_mmbert")],
            "path": list(sys.path),
            "cuda": torch.cuda.is_initialized(),
        }

    before = state()
    {change}
    import megatron_mmbert
    for found in pkgutil.walk_packages(megatron_mmbert.__path__, "megatron_mmbert."):
        importlib.import_module(found.name)
    after = state()
    known = {key[:2] for key in before if isinstance(key, tuple) and key[1].startswith("<class")}
    added = [key for key in after if isinstance(key, tuple) and key[:2] in known and key not in before]
    print(added + [key for key in before if before[key] != after.get(key)])
"""


@pytest.fixture(scope="module")
def foreign() -> str:
    return run(LIST_FOREIGN)


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_every_module_changes_nothing(foreign: str) -> None:
    assert run(COMPARE.replace("{change}", ""), foreign) == "[]"


def test_a_change_would_be_seen(foreign: str) -> None:
    changes = {
        "torch.Tensor.cuda = lambda self: self": "'cuda'",
        "import megatron.core.optimizer.optimizer as m; m.clip_grad_by_total_norm_fp32 = print": "'clip_grad",
        "warnings.filterwarnings('ignore', module='megatron')": "'warnings'",
        "torch.compiler.set_stance('force_eager')": "'stance'",
        "os.environ['CHANGED'] = '1'": "'environment'",
    }
    said = run(COMPARE.replace("{change}", "; ".join(changes)), foreign)
    assert [name for name in changes.values() if name not in said] == []
