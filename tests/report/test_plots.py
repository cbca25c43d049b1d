"""Pictures by their pixels: the right size, and something in every part of them; and what is drawn where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from megatron_mmbert.report.run_plot import plot_run
from megatron_mmbert.report.run_reader import read_run
from megatron_mmbert.report.scores_plot import plot_scores
from megatron_mmbert.report.shares_plot import largest_languages
from megatron_mmbert.report.style import short_count, short_names
from megatron_mmbert.report.token_axis import last_mean, smooth, thin, ticks, token_axis


def runs(count: int) -> dict[str, list[str]]:
    """The four phases over ``count`` languages; the last variant alone sees the second half."""
    names = [f"{chr(97 + n // 26 % 26)}{chr(97 + n % 26)}{chr(97 + n // 676)}_Latn" for n in range(count)]
    half = names[: count // 2]
    return {"pretrain": names[: count // 3], "midtrain": half, "decay_eng": half, "decay_all": names}


def drawn(path: Path, top: float, bottom: float, left: float, right: float) -> float:
    """Share of pixels that are not white in a part of the picture; 0 to 1 from the upper left corner."""
    pixels = imread(path)[..., :3]
    high, wide = pixels.shape[:2]
    part = pixels[int(top * high) : int(bottom * high), int(left * wide) : int(right * wide)]
    return float((part.min(axis=-1) < 0.9).mean())


@pytest.mark.parametrize(("phases", "languages"), [(1, 9), (4, 48), (4, 525)])
def test_run_picture(make_run, tmp_path: Path, phases: int, languages: int) -> None:
    trained = dict(list(runs(languages).items())[:phases])
    path = tmp_path / "run.png"
    plot_run(read_run(make_run(trained)), path)
    assert imread(path).shape[:2] == (1000, 1400)
    assert drawn(path, 0.1, 0.45, 0.08, 0.6) > 0.005, "no loss curve"
    assert drawn(path, 0.1, 0.45, 0.67, 0.97) > 0.003, "no small panels"
    assert drawn(path, 0.9, 0.945, 0.13, 0.97) > 0.6, "no bars of shares"
    assert drawn(path, 0.0, 1.0, 0.99, 1.0) < 0.01, "something runs over the right edge"


@pytest.mark.parametrize(("phases", "languages"), [(1, 9), (4, 48), (4, 525)])
def test_scores_picture(make_run, tmp_path: Path, phases: int, languages: int) -> None:
    trained = dict(list(runs(languages).items())[:phases])
    path = tmp_path / "scores.png"
    plot_scores(read_run(make_run(trained)), path)
    height, width = imread(path).shape[:2]
    assert width == 1400 and 400 <= height <= 1250
    assert drawn(path, 0.0, 1.0, 0.0, 1.0) > 0.02
    pixels = (imread(path)[..., :3] * 255).astype(np.int64)
    assert len(np.unique(pixels @ np.array([65536, 256, 1]))) > 50, "hardly any colours"


def test_heat_map_becomes_darker_where_scores_are_worse(make_run, tmp_path: Path) -> None:
    output = make_run({"pretrain": ["eng", "fra"], "midtrain": ["eng", "fra"]})
    (output / "midtrain" / "bits_per_byte.json").write_text('{"after": {"eng": 1.0, "fra": 3.0}}')
    plot_scores(read_run(output), tmp_path / "s.png")
    pixels = imread(tmp_path / "s.png")[..., :3].mean(axis=-1)
    column = pixels[:, int(1400 * (0.2 + 0.16 * 2.15))]  # beside the number of the last column
    filled = column[110:-35]
    assert filled[10] > filled[-10] + 0.3


def test_pictures_of_a_run_without_steps_or_scores(make_run, tmp_path: Path) -> None:
    output = make_run({"pretrain": ["eng", "fra"]})
    (output / "pretrain" / "metrics.jsonl").write_text("")
    (output / "pretrain" / "bits_per_byte.json").unlink()
    plot_run(read_run(output), tmp_path / "run.png")
    plot_scores(read_run(output), tmp_path / "scores.png")
    assert drawn(tmp_path / "scores.png", 0, 1, 0, 1) > 0


def test_token_axis_gives_small_stages_room_and_true_counts(make_run) -> None:
    stages = token_axis(read_run(make_run(runs(9))))
    assert [stage.title for stage in stages] == ["pretrain", "midtrain", "decay: all, eng"]
    assert stages[0].left == 0 and stages[-1].right == pytest.approx(1)
    assert all(stage.right - stage.left > 0.2 for stage in stages)
    assert ticks(stages)[1] == ["0", "1M", "2M", "2.6M", "2.9M"]
    assert stages[2].place(np.array([150_000.0]))[0] == pytest.approx((stages[2].left + stages[2].right) / 2)


def test_smoothing_keeps_a_line_a_line_and_passes_over_nan() -> None:
    line = np.arange(50.0)
    np.testing.assert_allclose(smooth(line, 9), line)
    broken = np.ones(50)
    broken[20] = np.nan
    np.testing.assert_allclose(smooth(broken, 9), 1.0)
    noisy = np.random.default_rng(0).normal(0, 1, 1000)
    assert smooth(noisy, 100)[100:-100].std() < 0.2
    assert last_mean(np.array([9.0] * 95 + [1.0, 2.0, 3.0, np.nan, 2.0])) == 2.0


def test_thinning_keeps_the_peaks() -> None:
    y = np.zeros(100_000)
    y[77_777], y[12_345] = 9.0, -9.0
    x_kept, y_kept = thin(np.arange(100_000.0), y)
    assert len(y_kept) <= 1500 and y_kept.max() == 9.0 and y_kept.min() == -9.0
    assert (np.diff(x_kept) > 0).all() and x_kept[np.argmax(y_kept)] == 77_777


def test_named_languages_are_those_with_most_tokens_of_the_run(make_run) -> None:
    phases = list(read_run(make_run(runs(48))).phases)
    assert largest_languages(phases, 3) == ["aaa_Latn", "aba_Latn", "aca_Latn"]


def test_numbers_and_names() -> None:
    assert [short_count(n) for n in (0, 404_123, 999_999, 2.3e12)] == ["0", "404k", "1M", "2.3T"]
    assert short_names(["srp_Cyrl", "srp_Latn", "eng_Latn"]) == {
        "srp_Cyrl": "srp_Cyrl",
        "srp_Latn": "srp_Latn",
        "eng_Latn": "eng",
    }
