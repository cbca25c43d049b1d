"""A phase: derived values and defaults."""

from __future__ import annotations

from typing import Any

from megatron_mmbert.config.phase import Phase


def phase(**more: Any) -> dict[str, Any]:
    batch = {"tokens_per_step": 256, "tokens_per_micro_batch": 128}
    return {"name": "one", "tokens": 1000, "mask_ratio": 0.3, "max_length": 128, "lr": 1e-3, "batch": batch, **more}


def test_local_theta_follows_the_global_one() -> None:
    assert Phase.model_validate(phase(rope_theta=160_000)).theta_local == 160_000
    assert Phase.model_validate(phase(rope_theta=160_000, rope_theta_local=10_000)).theta_local == 10_000


def test_language_sets_become_codes() -> None:
    languages = Phase.model_validate(phase(languages=["@mmbert_pretrain", "fao"])).languages
    assert isinstance(languages, list)
    assert len(languages) == 62
    assert languages[-1] == "fao"
    assert Phase.model_validate(phase(languages="all")).languages == "all"


def test_a_schedule_is_written_back_as_it_was_given() -> None:
    ramped = phase(mask_ratio={"from": 0.3, "to": 0.1}, temperature=0.7)
    written = Phase.model_validate(ramped).model_dump(mode="json", by_alias=True)
    assert (written["mask_ratio"], written["temperature"]) == ({"from": 0.3, "to": 0.1}, 0.7)
