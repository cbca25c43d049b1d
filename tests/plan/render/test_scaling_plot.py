"""The picture of the forecast: drawn for presets, also where sizes or phases have no layout."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.plan.gpus import gpu_of
from megatron_mmbert.plan.render import scaling_plot
from megatron_mmbert.plan.render.scaling_plot import HEIGHT, WIDTH, plot_scaling
from megatron_mmbert.plan.scaling import Point, scaling

H100 = gpu_of("h100")


def forecasts(folder: Path, memory: float = H100.memory, overrides: tuple[str, ...] = ()) -> dict[str, list[Point]]:
    path = folder / "recipe.yaml"
    path.write_text("name: mine\npreset: mmbert_base-paper\ntokenizer: {path: none}\ndata: {stores: [none]}\n")
    recipe = load_recipe(path, overrides)
    return {phase.name: scaling(recipe, phase, 1e5, replace(H100, memory=memory)) for phase in recipe.phases[:3]}


@pytest.mark.parametrize("memory", [H100.memory, 1e6])
def test_a_picture_is_drawn(tmp_path: Path, memory: float) -> None:
    path = tmp_path / "scaling.png"
    plot_scaling("mine", forecasts(tmp_path, memory), H100, path)
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (WIDTH, HEIGHT)


def test_it_shows_the_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The curves are the efficiencies, a bar's parts fill it, and sizes without a layout say so."""
    eight_packs = "phases.pretrain.batch={tokens_per_step: 32768, tokens_per_pack: 4096}"
    found, drawn, original = forecasts(tmp_path, overrides=(eight_packs,)), [], scaling_plot.figure_file

    @contextmanager
    def keep(path: Path, width: int, height: int) -> Iterator[Figure]:
        with original(path, width, height) as figure:
            drawn.append(figure)
            yield figure

    monkeypatch.setattr(scaling_plot, "figure_file", keep)
    plot_scaling("mine", found, H100, tmp_path / "scaling.png")
    upper, lower = drawn[0].axes
    curves = [list(line.get_ydata()) for line in upper.lines]
    for points in found.values():
        assert [point.with_overlap for point in points] in curves
        assert [point.without_overlap for point in points] in curves
    longest = found["pretrain"]
    bars = [bar for container in lower.containers for bar in container]
    assert sum(bar.get_height() for bar in bars) == pytest.approx(len(longest))
    assert [text.get_text() for text in lower.texts].count("no layout") == 13 - len(longest) > 0
