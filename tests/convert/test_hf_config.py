"""config.json under the transformers installed here and under one of the other generation; and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_checkpoint import make_checkpoint, tiny_model

from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors
from megatron_mmbert.convert.export_hf import export_checkpoint
from megatron_mmbert.convert.hf_config import SpecialIds, config_json, read_config
from megatron_mmbert.convert.import_hf import import_folder, read_tensors
from megatron_mmbert.convert.parity import TOLERANCE, our_logits, random_samples
from megatron_mmbert.utils.errors import UserError

IDS = SpecialIds(pad=0, eos=1, bos=2, unk=3, mask=4)
PROBE = """
import json, sys, torch, transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer
folder, samples, logits, saved, text = sys.argv[1:]
model, info = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True, attn_implementation="sdpa")
model.eval()
with torch.no_grad():
    found = [model(input_ids=torch.tensor([ids])).logits[0] for ids in json.loads(samples)]
torch.save(found, logits)
model.save_pretrained(saved)
old = hasattr(model.model.layers[0].attn, "rotary_emb")
thetas, windows = [], []
for layer in model.model.layers:
    attention = layer.attn
    if old:
        inverse, window = attention.rotary_emb.inv_freq, attention.local_attention[0]
    else:
        inverse = getattr(model.model.rotary_emb, layer.attention_type + "_inv_freq")
        window = -1 if attention.sliding_window is None else attention.sliding_window - 1
    thetas.append(float(inverse[1]) ** -len(inverse))
    windows.append(window)
tied = model.decoder.weight is model.model.embeddings.tok_embeddings.weight
print(json.dumps({"version": transformers.__version__, "thetas": thetas, "windows": windows, "tied": tied,
    "lost": {key: sorted(value) for key, value in info.items() if value}, "dtype": str(model.dtype),
    "names": sorted(model.state_dict()), "ids": AutoTokenizer.from_pretrained(folder)(text)["input_ids"],
    "dropouts": sum(m.p for m in model.modules() if isinstance(m, torch.nn.Dropout))}))
"""


def meta(**changes: Any) -> CheckpointMeta:
    values = {"model": tiny_model(), "rope_theta": 160_000.0, "rope_theta_local": 20_000.0, "max_length": 512}
    return CheckpointMeta(**{**values, **changes})


def pythons() -> list[Any]:
    other = os.environ.get("MMBERT_TRANSFORMERS4_PYTHON")
    skip = pytest.mark.skipif(not other, reason="MMBERT_TRANSFORMERS4_PYTHON names no Python with transformers 4")
    return [pytest.param(sys.executable, id="installed"), pytest.param(other, id="transformers4", marks=skip)]


@pytest.mark.parametrize("python", pythons())
def test_other_process_loads_the_folder(
    python: str, checkpoint: Path, exported: Path, tokenizer_dir: Path, tmp_path: Path
) -> None:
    """Each generation gets theta, window, tied weights and our logits; what it saves comes back bit for bit."""
    tensors = CheckpointTensors(checkpoint)
    samples = random_samples(tensors.meta)
    logits, saved = tmp_path / "logits.pt", tmp_path / "saved"
    command = [python, "-c", PROBE, *map(str, (exported, json.dumps(samples), logits, saved, "shrdlu etaoin"))]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "newly initialized" not in done.stderr and "MISSING" not in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if python != sys.executable:
        assert found["version"].startswith("4.")
    assert found["lost"] == {} and found["tied"] and found["dtype"] == "torch.float32" and found["dropouts"] == 0
    assert found["windows"] == [-1, 64, 64, -1]
    assert found["thetas"] == pytest.approx([160_000, 20_000, 20_000, 160_000], rel=1e-3)
    from megatron_mmbert.tokenizer.load import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_dir)
    assert found["ids"] == [2, *tokenizer.encode("shrdlu etaoin"), 1]
    ours = our_logits(tensors, [torch.tensor(ids) for ids in samples])
    assert max(len(ids) for ids in samples) > 2 * 64
    for theirs, mine in zip(torch.load(logits, weights_only=True), ours, strict=True):
        assert (theirs - mine).abs().max() <= TOLERANCE
        assert mine.abs().max() > 1  # logits worth comparing
    assert read_config(saved) == read_config(exported)
    back = read_tensors(saved, read_config(saved).model)
    assert all(torch.equal(back[name], tensors.load(name)) for name in tensors.names())


def test_values() -> None:
    values = config_json(meta(max_length=300), IDS)
    assert values["architectures"] == ["ModernBertForMaskedLM"] and values["model_type"] == "modernbert"
    assert (values["global_rope_theta"], values["local_rope_theta"]) == (160_000, 20_000)
    assert values["rope_parameters"]["sliding_attention"] == {"rope_type": "default", "rope_theta": 20_000}
    assert values["rope_parameters"]["full_attention"] == {"rope_type": "default", "rope_theta": 160_000}
    assert values["layer_types"] == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    assert values["global_attn_every_n_layers"] == 3 and values["local_attention"] == 128
    assert values["max_position_embeddings"] == 300 and values["vocab_size"] == 400
    ids = [values[f"{role}_token_id"] for role in ("pad", "eos", "bos", "unk", "mask", "cls", "sep")]
    assert ids == [0, 1, 2, 3, 4, 2, 1]
    assert all(values[key] == 0 for key in values if key.endswith("dropout"))
    assert values["tie_word_embeddings"] is True and values["decoder_bias"] is True and values["norm_bias"] is False


def write(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder


SIZES = {
    "model_type": "modernbert",
    "vocab_size": 256_000,
    "hidden_size": 384,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 6,
    "max_position_embeddings": 8192,
}


def test_read_is_the_inverse_of_write(tmp_path: Path) -> None:
    for model in (tiny_model(), tiny_model(num_layers=5, global_attention_every=2, window_each_side=17)):
        found = read_config(write(tmp_path, config_json(meta(model=model), IDS)))
        assert found.model == model
        assert (found.rope_theta, found.rope_theta_local) == (160_000, 20_000)


def test_released_configs_of_both_generations(tmp_path: Path) -> None:
    mmbert = {**SIZES, "global_rope_theta": 160_000, "local_rope_theta": 160_000, "position_embedding_type": "sans_pos"}
    found = read_config(write(tmp_path, mmbert))
    assert (found.rope_theta, found.rope_theta_local, found.model.window_each_side) == (160_000, 160_000, 64)
    assert found.model.global_attention_every == 3
    modernbert = {**SIZES, "global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0, "local_attention": 128}
    assert read_config(write(tmp_path, modernbert)).rope_theta_local == 10_000
    assert read_config(write(tmp_path, SIZES)).rope_theta_local == 10_000  # transformers' default
    null = {**SIZES, "global_rope_theta": 50_000.0, "local_rope_theta": None}
    assert read_config(write(tmp_path, null)).rope_theta_local == 50_000
    new = {"full_attention": {"rope_theta": 7e4}, "sliding_attention": {"rope_type": "default", "rope_theta": 3e4}}
    types = ["sliding_attention" if layer % 2 else "full_attention" for layer in range(22)]
    found = read_config(write(tmp_path, {**SIZES, "rope_parameters": new, "layer_types": types}))
    assert (found.rope_theta, found.rope_theta_local, found.model.global_attention_every) == (7e4, 3e4, 2)


UNEVEN = ["full_attention"] * 2 + ["sliding_attention"] * 20
REFUSED = {
    "another model": ({"model_type": "bert"}, "model_type 'bert'"),
    "attention bias": ({"attention_bias": True}, "attention_bias True"),
    "mlp bias": ({"mlp_bias": True}, "mlp_bias True"),
    "norm bias": ({"norm_bias": True}, "norm_bias True"),
    "no decoder bias": ({"decoder_bias": False}, "decoder_bias False"),
    "tanh gelu": ({"hidden_activation": "gelu_pytorch_tanh"}, "hidden_activation 'gelu_pytorch_tanh'"),
    "untied": ({"tie_word_embeddings": False}, "tie_word_embeddings False"),
    "uneven layers": ({"layer_types": UNEVEN}, "layer_types"),
    "two patterns": ({"layer_types": UNEVEN, "global_attn_every_n_layers": 3}, "disagrees"),
    "two thetas": ({"global_rope_theta": 1e4, "rope_parameters": {"full_attention": {"rope_theta": 2e4}}}, "disagrees"),
    "yarn": ({"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}}, "rope_type"),
    "flat rope": ({"rope_parameters": {"rope_theta": 1e4}}, "rope_parameters"),
    "old scaling": ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling"),
    "theta": ({"global_rope_theta": "much"}, "theta 'much'"),
    "window": ({"local_attention": 1}, "local_attention 1"),
    "heads": ({"num_attention_heads": 7}, "num_attention_heads"),
    "size": ({"hidden_size": "wide"}, "hidden_size"),
}


@pytest.mark.parametrize(("change", "named"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_the_encoder_cannot_express(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_config(write(tmp_path, {**SIZES, **change}))
    assert str(caught.value).startswith(str(tmp_path / "config.json"))
    assert named in str(caught.value)


def test_missing_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'intermediate_size' is missing"):
        read_config(write(tmp_path, {key: value for key, value in SIZES.items() if key != "intermediate_size"}))


WRONG: dict[str, dict[str, Any]] = {
    "as it is": {},
    "window": {"local_attention": 130},
    "theta": {"rope_parameters": None, "global_rope_theta": 150_000.0},
    "local theta": {"rope_parameters": None, "local_rope_theta": 19_000.0},
    "layers": {"layer_types": ["full_attention"] * 4},
    "activation": {"hidden_activation": "gelu_new"},
}
LOGITS = """
import sys, torch
from transformers import AutoModelForMaskedLM
*folders, samples, output = sys.argv[1:]
ids = torch.tensor([eval(samples)])
with torch.no_grad():
    torch.save([AutoModelForMaskedLM.from_pretrained(folder)(input_ids=ids).logits[0] for folder in folders], output)
"""


def test_logits_show_every_mistake_in_a_config(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    """The comparison behind --check passes for the written config only: its samples and tolerance are sharp enough."""
    folders = [tmp_path / name for name in WRONG]
    values = json.loads((exported / "config.json").read_text())
    for folder, change in zip(folders, WRONG.values(), strict=True):
        folder.mkdir()
        (folder / "model.safetensors").symlink_to(exported / "model.safetensors")
        write(folder, {**values, **change})
    tensors = CheckpointTensors(checkpoint)
    longest = random_samples(tensors.meta)[-1]
    command = [sys.executable, "-c", LOGITS, *map(str, folders), repr(longest), str(tmp_path / "logits.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (ours,) = our_logits(tensors, [torch.tensor(longest)])
    found = torch.load(tmp_path / "logits.pt", weights_only=True)
    far = {name: (theirs - ours).abs().max().item() for name, theirs in zip(WRONG, found, strict=True)}
    assert far.pop("as it is") <= TOLERANCE
    assert min(far.values()) > 10 * TOLERANCE, far


def test_the_138_names(tokenizer_dir: Path, tmp_path: Path) -> None:
    """22 layers have the released model's state dict, name for name."""
    from transformers import AutoModelForMaskedLM

    model = tiny_model(num_layers=22, hidden_size=8, ffn_hidden_size=8)
    export_checkpoint(make_checkpoint(tmp_path / "checkpoint", model), tokenizer_dir, tmp_path / "hf")
    names = set(AutoModelForMaskedLM.from_pretrained(tmp_path / "hf").state_dict())
    parts = ["attn_norm", "attn.Wqkv", "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo"]
    expected = {f"model.layers.{layer}.{part}.weight" for layer in range(22) for part in parts}
    expected -= {"model.layers.0.attn_norm.weight"}
    expected |= {"model.embeddings.tok_embeddings.weight", "model.embeddings.norm.weight", "model.final_norm.weight"}
    expected |= {"head.dense.weight", "head.norm.weight", "decoder.weight", "decoder.bias"}
    assert len(expected) == 138
    assert names == expected
    import_folder(tmp_path / "hf", tmp_path / "back")
