"""Without datatrove the package is imported all the same, and a step says how to get it."""

from __future__ import annotations

import subprocess
import sys

from support import ROOT

PROBE = """
import sys
sys.modules["datatrove"] = None
from megatron_mmbert.data.datatrove.reader import TokenStoreReader
from megatron_mmbert.utils.errors import UserError
try:
    TokenStoreReader("store", "tokenizer")
except UserError as error:
    print(error)
"""


def test_without_datatrove() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "datatrove is not installed; pip install 'megatron-mmbert[datatrove]'\n", done.stderr
