"""Import: bit-identical, from every kind of weight file, and nothing guessed."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_checkpoint import VOCAB, RunTool, error_line, make_tokenizer, random_weights, tiny_model

from megatron_mmbert.checkpoint.commit import checksum_problems
from megatron_mmbert.checkpoint.identity import check_tokenizer, fingerprints_of, tokenizer_values
from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors
from megatron_mmbert.convert import parity
from megatron_mmbert.convert.export_hf import export_checkpoint
from megatron_mmbert.convert.hf_logits import Answer
from megatron_mmbert.convert.import_hf import import_folder
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.utils.checksums import CHECKSUM_FILE
from megatron_mmbert.utils.errors import UserError


@pytest.fixture
def source(exported: Path, tmp_path: Path) -> Path:
    """A copy of an exported folder, to be spoilt; without the checksums, as from elsewhere."""
    return Path(shutil.copytree(exported, tmp_path / "source", ignore=shutil.ignore_patterns(CHECKSUM_FILE)))


def rewrite(source: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of ``model.safetensors``."""
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})


def as_bin(source: Path, tensors: Any, **options: Any) -> None:
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / "pytorch_model.bin", **options)


def test_round_trip_is_bit_identical(
    source: Path, checkpoint: Path, tokenizer_dir: Path, tmp_path: Path, run_tool: RunTool
) -> None:
    status, out, _ = run_tool("convert_from_hf", source, "--output", tmp_path / "back", "--check")
    assert status == 0 and "largest difference of a logit" in out
    before, after = CheckpointTensors(checkpoint), CheckpointTensors(tmp_path / "back")
    assert before.names() == after.names()
    assert all(torch.equal(before.load(name), after.load(name)) for name in before.names())
    meta = read_meta(tmp_path / "back")
    assert meta.model == before.meta.model
    assert (meta.rope_theta, meta.rope_theta_local, meta.max_length) == (160_000, 20_000, 512)
    assert not meta.has_optimizer and meta.step == 0 and meta.origin == str(source)
    assert list(checksum_problems(tmp_path / "back")) == []
    export_checkpoint(tmp_path / "back", tokenizer_dir, tmp_path / "hf")
    first, second = load_file(source / "model.safetensors"), load_file(tmp_path / "hf" / "model.safetensors")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_tokenizer_of_the_folder_is_kept(
    source: Path, tokenizer_dir: Path, tmp_path: Path, run_tool: RunTool
) -> None:
    """F3: from the folder to the checkpoint, and compared when that is exported, whichever file the folder has."""
    make_tokenizer(tmp_path / "other", VOCAB, seed=1)
    fingerprint = load_tokenizer(tokenizer_dir).fingerprint()
    import_folder(source, tmp_path / "exported")
    assert read_meta(tmp_path / "exported").tokenizer_fingerprint == fingerprint
    for name in ("tokenizer.model", "identity.json"):
        (source / name).unlink()  # as transformers saves it
    import_folder(source, tmp_path / "theirs")
    assert read_meta(tmp_path / "theirs").tokenizer_fingerprint == load_tokenizer(source).fingerprint() != fingerprint
    for name in ("exported", "theirs"):
        arguments = (tmp_path / name, "--output", tmp_path / f"hf-{name}", "--tokenizer")
        status, _, err = run_tool("convert_to_hf", *arguments, tmp_path / "other")
        assert status == 2 and "in tokenizer (" in error_line(err) and "--allow-different" in err
        export_checkpoint(tmp_path / name, tokenizer_dir, tmp_path / f"hf-{name}")
    status, _, _ = run_tool(
        "convert_to_hf", *arguments, tmp_path / "other", "--overwrite", "--allow-different=tokenizer"
    )
    assert status == 0


def test_either_file_of_the_tokenizer_is_the_models(source: Path, tmp_path: Path) -> None:
    """docs/continue_a_model.md makes the store with HF_DIR/tokenizer.json, and the folder may have a .model too."""
    import_folder(source, tmp_path / "exported")
    (source / "identity.json").unlink()
    import_folder(source, tmp_path / "foreign")
    for name in ("exported", "foreign"):
        meta = read_meta(tmp_path / name)
        for file in ("", "tokenizer.json", "tokenizer.model"):
            tokenizer = load_tokenizer(source / file)
            check_tokenizer(tmp_path / name, meta, tokenizer)
            after = meta.model_copy(update=tokenizer_values(meta, tokenizer))
            assert after.tokenizer_fingerprint == tokenizer.fingerprint()
            assert set(fingerprints_of(after)) == set(fingerprints_of(meta)), "it is known by both names on"


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer.model", "config.json"])
def test_a_changed_export_is_named(file: str, source: Path, tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "other", VOCAB, seed=1)
    name = "rope_theta" if file == "config.json" else "tokenizer"
    if file == "config.json":
        (source / file).write_text((source / file).read_text().replace("160000.0", "500.0"))
    else:
        shutil.copy(tmp_path / "other" / file, source)
    with pytest.raises(UserError, match=rf"differs from what was exported .* in {name} \("):
        import_folder(source, tmp_path / "back")
    import_folder(source, tmp_path / "back", allowed=[name])


def test_weights_are_compared_with_the_checksums(exported: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-7] ^= 1
    weights.write_bytes(content)
    with pytest.raises(
        UserError, match=r"model\.safetensors: content differs from its checksum; copy the folder again"
    ):
        import_folder(copy, tmp_path / "back")
    as_bin(copy, load_file(weights))
    with pytest.raises(UserError, match=r"pytorch_model\.bin: not in the list of files"):
        import_folder(copy, tmp_path / "back")
    (copy / CHECKSUM_FILE).write_text('{"../x": {}}')
    with pytest.raises(UserError, match="damaged list of checksums"):
        import_folder(copy, tmp_path / "back")


def test_a_folder_without_tokenizer_says_so(source: Path, tmp_path: Path, run_tool: RunTool) -> None:
    for file in ("identity.json", "tokenizer.json", "tokenizer.model"):
        (source / file).unlink()
    status, out, _ = run_tool("convert_from_hf", source, "--output", tmp_path / "back")
    assert status == 0 and "tokenizer not known: none in the folder" in out
    assert read_meta(tmp_path / "back").tokenizer_fingerprint == ""


def test_qkv_rows_are_regrouped_by_head(source: Path, tmp_path: Path) -> None:
    """Head 1's first key row: row 32 + 16 of Hugging Face's [q, k, v][head], row (1·3 + 1)·16 of Megatron's."""
    import_folder(source, tmp_path / "back")
    ours = CheckpointTensors(tmp_path / "back").load("encoder.layers.2.self_attention.linear_qkv.weight")
    theirs = random_weights(tiny_model())["model.layers.2.attn.Wqkv.weight"]
    assert torch.equal(ours[(1 * 3 + 1) * 16], theirs[32 + 16])
    assert not torch.equal(ours, theirs)


def test_pickle_of_tensors(source: Path, tmp_path: Path, checkpoint: Path) -> None:
    """The released mmBERT's kind of file, with the tied decoder in it: 138 names for 22 layers."""
    tensors = load_file(source / "model.safetensors")
    as_bin(source, tensors | {"decoder.weight": tensors["model.embeddings.tok_embeddings.weight"]})
    import_folder(source, tmp_path / "back")
    before, after = CheckpointTensors(checkpoint), CheckpointTensors(tmp_path / "back")
    assert all(torch.equal(before.load(name), after.load(name)) for name in before.names())


def test_pickle_with_code_is_not_executed(source: Path, tmp_path: Path, run_process: Callable[..., Any]) -> None:
    trace = tmp_path / "executed"

    class Attack:
        def __reduce__(self) -> Any:
            return open, (str(trace), "w")

    tensors = load_file(source / "model.safetensors")
    as_bin(source, tensors | {"decoder.weight": Attack()})
    done = run_process("convert_from_hf", source, "--output", tmp_path / "back")
    assert done.returncode == 2 and "pytorch_model.bin" in error_line(done.stderr)
    assert not trace.exists() and not (tmp_path / "back").exists()
    torch.load(source / "pytorch_model.bin", weights_only=False)
    assert trace.exists()  # the file is what it claims to be


@pytest.mark.parametrize("kind", ["old format", "plain pickle", "list", "empty"])
def test_strange_pickles_are_refused(kind: str, source: Path, tmp_path: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    file = source / "pytorch_model.bin"
    if kind == "list":
        as_bin(source, list(tensors.values()))
    else:
        as_bin(source, tensors, _use_new_zipfile_serialization=False)
        if kind != "old format":
            file.write_bytes(pickle.dumps({"a": 1}) if kind == "plain pickle" else b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin") as caught:
        import_folder(source, tmp_path / "back")
    message = str(caught.value)
    assert ("file format of before 2020" in message) == (kind == "old format")
    assert "weights_only" not in message and "mmap" not in message


def test_sharded_folder(checkpoint: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    export_checkpoint(checkpoint, tokenizer_dir, tmp_path / "hf", max_shard_size="30KB")
    import_folder(tmp_path / "hf", tmp_path / "back")
    before, after = CheckpointTensors(checkpoint), CheckpointTensors(tmp_path / "back")
    assert all(torch.equal(before.load(name), after.load(name)) for name in before.names())
    shard = sorted((tmp_path / "hf").glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(UserError, match=shard.name):
        import_folder(tmp_path / "hf", tmp_path / "again")


def test_half_precision_is_widened_exactly(source: Path, tmp_path: Path) -> None:
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    rewrite(source, halve)
    import_folder(source, tmp_path / "back")
    table = CheckpointTensors(tmp_path / "back").load("embedding.word_embeddings.weight")
    assert torch.equal(
        table.bfloat16(), random_weights(tiny_model())["model.embeddings.tok_embeddings.weight"].bfloat16()
    )


def _set_bias(source: Path) -> None:
    values = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**values, "mlp_bias": True}))


def _untie(tensors: dict[str, torch.Tensor]) -> None:
    tensors["decoder.weight"] = tensors["model.embeddings.tok_embeddings.weight"] + 1


def _drop_head(tensors: dict[str, torch.Tensor]) -> None:
    for name in ("head.dense.weight", "head.norm.weight", "decoder.bias"):
        del tensors[name]


def _no_prefix(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("model.")]:
        tensors[name.removeprefix("model.")] = tensors.pop(name)


SPOILT: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop("model.layers.1.mlp.Wi.weight"), r"model.layers.1.mlp.Wi.weight of shape \[96, 32\]"),
    "unknown": (lambda t: t.update(extra=torch.ones(3)), r"unknown tensor extra of shape \[3\]"),
    "misshapen": (lambda t: t.update({"decoder.bias": torch.ones(9)}), r"decoder.bias has shape \[9\].*\[400\]"),
    "integers": (lambda t: t.update({"decoder.bias": torch.ones(400).int()}), "decoder.bias is int32"),
    "nan": (
        lambda t: t["decoder.bias"].fill_(float("nan")),
        "tensor 'decoder.bias' has 400 values .*not finite",
    ),
    "inf": (lambda t: t["decoder.bias"][3:5].fill_(float("inf")), "tensor 'decoder.bias' has 2 values .*not finite"),
    "untied": (_untie, "decoder.weight differs"),
    "no head": (_drop_head, "no masked-language-model head"),
    "no prefix": (_no_prefix, "model.embeddings.tok_embeddings.weight.*is missing"),
}


@pytest.mark.parametrize(("change", "named"), SPOILT.values(), ids=SPOILT)
def test_spoilt_tensors_are_named(
    change: Callable[[dict[str, torch.Tensor]], Any], named: str, source: Path, tmp_path: Path
) -> None:
    rewrite(source, change)
    with pytest.raises(UserError, match=named) as caught:
        import_folder(source, tmp_path / "back")
    assert str(source) in str(caught.value)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("problem", ["truncated", "garbage", "no weights", "bias", "no folder"])
def test_tool_ends_with_one_sentence(problem: str, source: Path, tmp_path: Path, run_tool: RunTool) -> None:
    weights = source / "model.safetensors"
    named = {"truncated": weights, "garbage": weights, "bias": source / "config.json"}.get(problem, source)
    if problem == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif problem == "garbage":
        weights.write_bytes(b"\xff" * 1000)
    elif problem == "no weights":
        weights.unlink()
    elif problem == "bias":
        _set_bias(source)
    else:
        named = source = tmp_path / "nowhere"
    status, _, err = run_tool("convert_from_hf", source, "--output", tmp_path / "back")
    assert status == 2 and str(named) in error_line(err)
    assert not (tmp_path / "back").exists()


def test_failed_check_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(folder: Path, samples: list[list[int]], *_: Any) -> Answer:
        return Answer([torch.zeros(len(ids), VOCAB) for ids in samples], [], None)

    monkeypatch.setattr(parity, "ask_transformers", zeros)
    with pytest.raises(UserError, match="logits differ"):
        import_folder(source, tmp_path / "back", check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
