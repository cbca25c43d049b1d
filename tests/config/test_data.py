"""Named sets of languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_mmbert.config.data import LANGUAGE_SETS, DataConfig, expand


def test_sizes_are_those_of_the_published_counts() -> None:
    pretrain, midtrain = LANGUAGE_SETS["@mmbert_pretrain"], LANGUAGE_SETS["@mmbert_midtrain"]
    assert len(set(pretrain)) == len(pretrain) == 60 + 1
    assert len(set(midtrain)) == len(midtrain) == 109 + 1
    assert set(pretrain) < set(midtrain)
    assert "code" in pretrain
    assert all(len(code) == 3 and code.isalpha() and code.islower() for code in midtrain if code != "code")


def test_expansion_keeps_order_and_drops_repetitions() -> None:
    pretrain = list(LANGUAGE_SETS["@mmbert_pretrain"])
    assert expand(["fao", "fao", "srp_Cyrl"]) == ["fao", "srp_Cyrl"]
    assert expand(["xho", "@mmbert_pretrain", "fao"]) == ["xho", *(c for c in pretrain if c != "xho"), "fao"]
    assert expand(["@mmbert_pretrain", "@mmbert_midtrain"]) == list(LANGUAGE_SETS["@mmbert_midtrain"])


def test_an_unknown_set_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'@mmbert_pretran' .did you mean '@mmbert_pretrain'"):
        expand(["eng", "@mmbert_pretran"])


def test_a_gpu_does_not_wait_for_the_planning_of_packs() -> None:
    by_default, given = DataConfig(stores=[Path("s")]), DataConfig(stores=[Path("s")], workers=0)
    assert [config.workers_on(device) for config in (by_default, given) for device in ("cuda", "cpu")] == [2, 0, 0, 0]
