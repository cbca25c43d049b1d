"""Logits and token ids of a model folder by transformers, computed in a process of its own.

    python hf_logits.py FOLDER REQUEST.json ANSWER/

That process has not set up Megatron-Core, so that the comparison is with what users of the folder get. (Megatron on a
CPU replaces a few functions of torch, among them ones that transformers relies on to build a model on the meta device.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from megatron_mmbert.utils.errors import UserError, run_command
from megatron_mmbert.utils.files import to_json

_IDS, _LOGITS = "ids.json", "logits.safetensors"


@dataclass(frozen=True)
class Answer:
    """Logits [T, V] of each sample on the CPU; of each text the token ids; the tokenizer's mask id."""

    logits: list[Tensor]
    text_ids: list[list[int]]
    mask_id: int | None


def ask_transformers(folder: Path, samples: list[list[int]], texts: list[str], device: str = "cpu") -> Answer:
    """Load ``folder`` with transformers in another process and run ``samples`` through the model in fp32.

    Args:
        texts: for ``AutoTokenizer``; none, if the folder has no tokenizer.

    Raises:
        UserError: transformers is missing, or cannot load the folder whole.
    """
    if find_spec("transformers") is None:
        raise UserError("--check needs transformers, which is missing; install it: pip install 'megatron-mmbert[hf]'")
    with tempfile.TemporaryDirectory() as scratch:
        request = Path(scratch) / "request.json"
        request.write_text(to_json({"samples": samples, "texts": texts, "device": device}))
        command = [sys.executable, __file__, str(folder), str(request), scratch]
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it ended without a word"]
            reason = lines[-1].removeprefix("error: ")
            raise UserError(f"{folder}: transformers cannot load it whole ({reason}); nothing was kept")
        found = json.loads((Path(scratch) / _IDS).read_text())
        logits = load_file(Path(scratch) / _LOGITS)
    return Answer([logits[str(number)] for number in range(len(samples))], found["text_ids"], found["mask_id"])


def main() -> None:
    """Answer one request, as the child process."""
    folder, request, answer = map(Path, sys.argv[1:])
    wanted = json.loads(request.read_text())
    model = _load(folder).to(wanted["device"])
    with torch.inference_mode():
        logits = {
            str(number): model(input_ids=torch.tensor([ids], device=wanted["device"])).logits[0].cpu()
            for number, ids in enumerate(wanted["samples"])
        }
    save_file(logits, answer / _LOGITS)
    found: dict[str, Any] = {"text_ids": [], "mask_id": None}
    if wanted["texts"]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        found = {"text_ids": [tokenizer(text)["input_ids"] for text in wanted["texts"]]}
        found["mask_id"] = tokenizer.mask_token_id
    (answer / _IDS).write_text(to_json(found))


def _load(folder: Path) -> Any:
    """Return the model in fp32, every weight of it from the folder."""
    from transformers import AutoModelForMaskedLM

    model, info = AutoModelForMaskedLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="sdpa", local_files_only=True
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[problem]:
            raise UserError(f"{problem.replace('_', ' ')}: {sorted(info[problem])[:3]}")
    return model.float().eval()


if __name__ == "__main__":
    run_command(main)
