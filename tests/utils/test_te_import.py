"""A Transformer Engine that does not load, in whatever way, is as good as none: training runs without it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from megatron_mmbert.utils import te_import

# How it fails: the files of a stub package.
BROKEN = {
    "a library of another CUDA": {"__init__": "raise OSError('libcublas.so.12: no such file\\nand more')"},
    "a check of versions": {"__init__": "from . import pytorch", "pytorch": "raise AssertionError('libcublas.so.12:')"},
    "a driver": {"__init__": "", "pytorch": "raise RuntimeError('CUDA error: libcublas.so.12: no kernel image')"},
    "a missing part": {"__init__": "try:\n    from . import pytorch\nexcept ImportError:\n    pass"},
    "an extension of another torch": {
        "__init__": "try:\n    from . import pytorch\nexcept ImportError:\n    pass",
        "pytorch": "raise ImportError('undefined symbol: libcublas.so.12:')",
    },
}
PROGRAM = """
import megatron_mmbert.model.encoder
from megatron_mmbert.kernels.fp8 import te_unsupported_reason
print(te_unsupported_reason())
"""


def stub(way: str, folder: Path) -> str:
    package = folder / "transformer_engine"
    package.mkdir()
    for name, text in BROKEN[way].items():
        (package / f"{name}.py").write_text(text)
    return str(folder)


@pytest.mark.parametrize("way", BROKEN)
def test_a_broken_library_is_hidden_and_its_reason_kept(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "transformer_engine.pytorch" in sys.modules:
        pytest.skip("Transformer Engine is loaded")
    monkeypatch.setitem(sys.modules, "transformer_engine", None)  # to be taken away again at the end
    del sys.modules["transformer_engine"]
    monkeypatch.syspath_prepend(stub(way, tmp_path))
    monkeypatch.setattr(te_import, "_checked", False)
    monkeypatch.setattr(te_import, "_problem", None)
    reason = te_import.te_problem()
    assert reason is not None and reason.startswith("Transformer Engine cannot be loaded: ")
    assert "\n" not in reason
    assert te_import.te_problem() == reason
    assert find_spec("transformer_engine") is None, "to Megatron-Core it is not installed"
    with pytest.raises(ImportError):
        import_module("transformer_engine.pytorch")


def test_the_encoder_is_imported_all_the_same(tmp_path: Path) -> None:
    paths = os.pathsep.join([stub("a library of another CUDA", tmp_path), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Transformer Engine cannot be loaded: libcublas.so.12: no such file\n"
