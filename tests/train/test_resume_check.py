"""The recorded batch: replayed on resume, whatever the layout, and refused where the weights are not those saved."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_mmbert.checkpoint.commit import CHECKSUM_FILE, finalize
from megatron_mmbert.checkpoint.discovery import committed_checkpoints
from megatron_mmbert.checkpoint.metadata import META_FILE, CheckpointMeta, RecordedBatch, read_meta, write_meta
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors, write_tensors
from megatron_mmbert.config import load_recipe
from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.train import resume_check
from megatron_mmbert.train.loop import train
from megatron_mmbert.train.trainer import Trainer, build_trainer
from megatron_mmbert.utils.errors import UserError


def begin(recipe_path: Path, output: Path, overrides: tuple[str, ...] = ()) -> Trainer:
    recipe = load_recipe(recipe_path, overrides)
    return build_trainer(recipe, recipe.phase("first"), output)


@pytest.fixture
def stopped(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> Path:
    """A run's folder after four steps; its one checkpoint is that of step 4."""
    counter = itertools.count()
    train(begin(recipe_path, tmp_path), [], lambda: next(counter) >= 4)
    return tmp_path


def newest(output: Path) -> Path:
    return committed_checkpoints(output / "first/checkpoints")[-1]


def describe_anew(path: Path, meta: CheckpointMeta) -> None:
    """Another description, under good checksums."""
    write_meta(path, meta)
    (path / CHECKSUM_FILE).unlink()
    finalize(path)


def test_a_resume_replays_the_batch_and_says_so(
    stopped: Path, recipe_path: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = read_meta(newest(stopped)).replay
    assert recorded is not None and 0 < len(recorded.tokens) <= resume_check.TOKENS == sum(recorded.lengths)
    trainer = begin(recipe_path, stopped)
    assert f"recorded batch replayed: loss {recorded.loss:.7g}, {recorded.loss:.7g} when" in capsys.readouterr().out
    assert resume_check.loss_on(trainer.training.encoders, recorded) == recorded.loss
    assert trainer.training.encoders[0].training


def test_other_weights_under_good_checksums_are_refused(
    stopped: Path, recipe_path: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    path = newest(stopped)
    tensors, meta = CheckpointTensors(path), read_meta(path).model_copy(update={"has_optimizer": False})
    values = {name: tensors.load(name) for name in tensors.names()}
    name = next(name for name in values if "word_embeddings" in name)
    values[name] *= 1.2
    write_tensors(path.with_name("other"), meta, values)
    path.rename(path.with_name("moved"))
    path.with_name("other").rename(path)
    with pytest.raises(
        UserError, match=r"step-00000004: the loss on the batch recorded in it is .*checkpoint.resume_check"
    ):
        begin(recipe_path, stopped)
    trainer = begin(recipe_path, stopped, ("checkpoint.resume_check=warn",))
    assert trainer.counters.step == 4 and "warning: " in capsys.readouterr().out
    begin(recipe_path, stopped, ("checkpoint.resume_check=none",))
    assert "recorded" not in capsys.readouterr().out


def test_another_tokenizers_ids_are_refused(stopped: Path, recipe_path: Path, runtime: Runtime) -> None:
    """As if the vocabulary had been renumbered under the same name."""
    path = newest(stopped)
    meta = read_meta(path)
    assert meta.replay is not None
    ids = [(token + 7) % meta.model.vocab_size for token in meta.replay.tokens]
    describe_anew(path, meta.model_copy(update={"replay": meta.replay.model_copy(update={"tokens": ids})}))
    with pytest.raises(UserError, match="the loss on the batch recorded"):
        begin(recipe_path, stopped)


@pytest.mark.parametrize(
    "change",
    [{"scored": [300]}, {"labels": []}, {"lengths": [1]}, {"tokens": [-1] * 256}, {"labels": [10**9], "scored": [0]}],
    ids=str,
)
def test_a_record_that_is_none_is_a_damaged_description(
    change: dict[str, list[int]], stopped: Path, recipe_path: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under good checksums: named and skipped, and as none is left, the phase does not begin anew by itself."""
    path = newest(stopped)
    values = json.loads((path / META_FILE).read_text())
    values["replay"] |= change
    (path / META_FILE).write_text(json.dumps(values))
    (path / CHECKSUM_FILE).unlink()
    finalize(path)
    with pytest.raises(UserError, match=r"none of 1 checkpoints is valid .* to begin the phase anew"):
        begin(recipe_path, stopped)
    assert f"damaged checkpoint skipped: {path / META_FILE}: " in capsys.readouterr().out


def test_a_checkpoint_without_a_record_is_taken(
    stopped: Path, recipe_path: Path, runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    path = newest(stopped)
    describe_anew(path, read_meta(path).model_copy(update={"replay": None}))
    assert begin(recipe_path, stopped).counters.step == 4
    assert "no batch recorded, so none is replayed" in capsys.readouterr().out


def test_no_random_state_is_touched(stopped: Path, recipe_path: Path, runtime: Runtime) -> None:
    trainer, recorded = begin(recipe_path, stopped), read_meta(newest(stopped)).replay
    assert recorded is not None
    before = torch.get_rng_state()
    resume_check.loss_on(trainer.training.encoders, recorded)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_beginning_of_a_pack() -> None:
    tokens = torch.arange(600)
    pack = PackedBatch(
        tokens_T=tokens,
        position_T=tokens,
        cu_seqlens=torch.tensor([0, 100, 500, 600], dtype=torch.int32),
        max_seqlen=400,
        masked_index_K=torch.tensor([3, 200, 300, 0]),
        label_K=torch.tensor([30, 31, 32, IGNORED_LABEL]),
        dataset_S=torch.zeros(3, dtype=torch.int32),
        real_tokens=600,
        pack_indices=(0,),
    )
    found = resume_check._beginning(pack)
    assert found == RecordedBatch(
        tokens=list(range(256)), lengths=[100, 156], scored=[3, 200], labels=[30, 31], loss=0.0, computed=""
    )
    unscored = resume_check._beginning(replace(pack, masked_index_K=torch.tensor([300]), label_K=torch.tensor([32])))
    assert (unscored.scored, unscored.labels) == ([0], [0])


def test_one_rank_that_computes_otherwise_is_named(
    stopped: Path, recipe_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, recorded = begin(recipe_path, stopped), read_meta(newest(stopped)).replay
    assert recorded is not None
    for other in (recorded.loss + 0.1, float("nan")):
        monkeypatch.setattr(resume_check, "all_ranks", lambda loss, other=other: [loss, loss, other])
        with pytest.raises(UserError, match=r"rank 2; limit"):
            resume_check.check(newest(stopped), recorded, trainer.training.encoders)


def test_limits_are_wide_only_where_sums_have_another_order() -> None:
    one, other, narrow = "float32 on cpu with MKL", "float32 on cpu with oneDNN", "bfloat16 on cpu with MKL"
    assert resume_check._limit(one, one) < resume_check._limit(one, other) < resume_check._limit(one, narrow)
    assert resume_check._limit(narrow, narrow) < resume_check._limit(narrow, one)
