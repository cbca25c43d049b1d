"""All ranks come to the same exchanges in the same order, in the layouts of every preset, as on GPUs.

On a CPU engines are chosen without an exchange and sends are never batched: here both are as on GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.transformer.transformer_block import get_num_layers_to_build
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from support.exchanges import Exchange, carry_out, rank_alone
from support.layouts import Layout

from megatron_mmbert import attention, parallel
from megatron_mmbert.attention import Engine, Request
from megatron_mmbert.attention.selection import Trial
from megatron_mmbert.config.loading import load_recipe, presets
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.model import config as model_config
from megatron_mmbert.model import encoder, layers
from megatron_mmbert.model.config import EncoderConfig
from megatron_mmbert.model.parameter_names import parameter_shapes
from megatron_mmbert.model.pipeline_split import balanced_split, head_in_layers, scored_for_balance
from megatron_mmbert.optim import optimizer
from megatron_mmbert.train import step

TOKENS, VOCAB = 128, 64


@pytest.fixture(autouse=True)
def as_on_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take the CPU's shortcuts out; the trials find the portable engine to be the fastest."""
    parallel.enable_cpu_mode()
    parallel.shutdown()

    def request(config: EncoderConfig, window: int | None) -> Request:
        return Request("cuda", config.params_dtype, 8, window, True, config.sample_tokens)

    def trial(engine: Engine, *_: Any) -> Trial:
        return Trial(engine.name, None, 0.0, 1.0 if engine.name == "torch" else 2.0)

    pipeline = model_config._pipeline
    monkeypatch.setattr(model_config, "_pipeline", lambda *arguments: pipeline(*arguments[:-1], False))
    monkeypatch.setattr(layers, "_request", request)
    monkeypatch.setattr(attention, "try_engine", trial)
    yield
    parallel.shutdown()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a rank what it would have from the others."""
    names_of_all_stages, mean_loss = optimizer.names_of_all_stages, step._mean_loss

    def names(own: Any) -> list[str]:
        known = names_of_all_stages(own)
        layer_count = 1 + max((int(name.split(".")[2]) for name in known if ".layers." in name), default=0)
        assert layer_count <= 24
        return sorted(set(parameter_shapes(recipe(Layout(), 24).model)) | set(known))

    def loss(reports: Any) -> float:
        try:
            return mean_loss(reports)
        except ZeroDivisionError:  # the last stage's, where nothing comes from it
            return 1.0

    monkeypatch.setattr(optimizer, "names_of_all_stages", names)
    monkeypatch.setattr(step, "_mean_loss", loss)


def recipe(layout: Layout, num_layers: int) -> Recipe:
    """A model of the preset's layers, of hardly any width."""
    return Recipe.model_validate(
        {
            "name": "narrow",
            "model": {
                **{"num_layers": num_layers, "hidden_size": 16, "ffn_hidden_size": 16, "num_attention_heads": 2},
                **{"vocab_size": VOCAB, "max_length": TOKENS, "attention_output_dropout": layout.dropout},
            },
            "tokenizer": {"path": "none"},
            "data": {"stores": ["none"]},
            "phases": [
                {
                    **{"name": "one", "tokens": 10**6, "mask_ratio": 0.3, "max_length": TOKENS, "lr": 1e-3},
                    "batch": {"tokens_per_step": TOKENS, "tokens_per_micro_batch": TOKENS},
                }
            ],
            "parallel": {
                **{"tensor": layout.tp, "pipeline": layout.pp, "virtual_stages": layout.vp, "sequence": layout.sp},
                **{"distributed_optimizer": layout.zero, "overlap": layout.overlap, "recompute": layout.recompute},
                "layers_per_stage": list(layout.split) or None,
                "bucket_elements": 2_000,
            },
        }
    )


def pack() -> PackedBatch:
    ids = torch.arange(TOKENS)
    return PackedBatch(
        tokens_T=ids % VOCAB,
        position_T=ids,
        cu_seqlens=torch.tensor([0, TOKENS], dtype=torch.int32),
        max_seqlen=TOKENS,
        masked_index_K=ids[::4],
        label_K=ids[::4] % VOCAB,
        dataset_S=torch.zeros(1, dtype=torch.int32),
        real_tokens=TOKENS,
        pack_indices=(0,),
    )


def exchanges_of(layout: Layout, rank: int, num_layers: int, steps: int) -> list[Exchange]:
    """What a rank exchanges while it builds the model and takes ``steps`` steps."""
    attention._fastest_here.cache_clear()
    run = recipe(layout, num_layers)
    with rank_alone(rank, layout.tp, layout.pp, layout.dp, layout.vp) as log:
        training = step.build_training(run, run.phases[0], lambda encoder, seed: None)
        for _ in range(steps):
            step.training_step(
                training, [pack()] * (3 if layout.pp == 2 and layout.vp == 1 else 2), 1e-3, run.phases[0], 0.0, 1
            )
        training.gather_parameters()
    return log.found


def where_they_hang(layout: Layout, num_layers: int, steps: int = 1) -> str | None:
    return carry_out([exchanges_of(layout, rank, num_layers, steps) for rank in range(layout.ranks)])


def splits_of_presets(folder: Path) -> dict[tuple[int, ...], int]:
    """Return the layers of each stage over all presets, phases and numbers of stages; with the layers in all."""
    found = {}
    for name in presets():
        path = folder / f"{name}.yaml"
        path.write_text(f"name: mine\npreset: {name}\ntokenizer: {{path: none}}\ndata: {{stores: [none]}}\n")
        of = load_recipe(path)
        for phase in of.phases:
            head = head_in_layers(of.model, scored_for_balance(phase))
            for stages in (2, 4, 8):
                if of.model.num_layers >= stages - 2:
                    found[tuple(balanced_split(of.model.num_layers, stages, head))] = of.model.num_layers
    return found


def test_every_presets_pipelines(tmp_path: Path) -> None:
    found = splits_of_presets(tmp_path)
    assert any(split[-1] == 0 for split in found), "a last stage without a layer, which waits in no layer's exchange"
    for split, num_layers in found.items():
        layout = Layout(pp=len(split), split=split, dropout=0.0)
        assert where_they_hang(layout, num_layers) is None, split


@pytest.mark.parametrize(
    "layout",
    [
        Layout(tp=2, dp=2, sp=True, zero=True, overlap=True),
        Layout(pp=2, vp=2, dp=2, zero=True, overlap=True),
        Layout(tp=2, pp=2, dp=2, sp=True, recompute="full", split=(5, 1)),
        Layout(pp=4, recompute="light"),
    ],
    ids=lambda layout: layout.name,
)
def test_other_kinds_of_parallelism(layout: Layout) -> None:
    assert where_they_hang(layout, 6, steps=2) is None


@pytest.mark.parametrize("split", [(2, 4), (3, 0)], ids=str)
def test_choosing_for_a_stages_own_layers_would_be_seen(
    split: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stage would take the other's engines, or wait for a stage that has no layer."""

    def settle(config: EncoderConfig) -> None:
        first = get_transformer_layer_offset(config)
        for layer in range(first, first + get_num_layers_to_build(config)):
            window = None if config.is_global(layer) else config.window_each_side
            attention.choose(attention.AUTO, layers._request(config, window), 2 + layer % 3)
        config.attention_local = config.attention_global = "torch"

    monkeypatch.setattr(encoder, "resolve_engines", settle)
    assert "all_gather_object" in (where_they_hang(Layout(pp=2, split=split), sum(split)) or "")
