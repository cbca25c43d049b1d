"""The figures of a part beside their targets, from its record alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TARGETS = {
    "base, 1024": (320_000, 380_000),
    "base, 8192": (210_000, 270_000),
    "small, 1024": (600_000, 720_000),
}
"""Tokens/s on one H200: good, and what is reached for (docs/gpu.md)."""
DATASHEET_TFLOPS = 989.0  # dense bf16 of an H100 or H200


def lines(record: dict[str, Any]) -> list[str]:
    """What to print at the end of a part."""
    return [*_rates(record), *_ratios(record), *_losses(record), *_left_out(record)]


def _rates(record: dict[str, Any]) -> Iterator[str]:
    results = record["results"]
    ceiling = results.get("ceiling", {}).get("tflops", {}).get("square")
    for name, result in results.items():
        if "tflops" not in result or "tokens_per_s" not in result:
            continue
        share = f", {result['tflops'] / ceiling:.0%} of the ceiling" if ceiling else ""
        share += f", {result['tflops'] / DATASHEET_TFLOPS:.0%} of the datasheet"
        good = TARGETS.get(name)
        target = f"; target {good[0]:,} ({good[1]:,})" if good else ""
        linears, attention = result["linears"].split(";")[0], result["attention"]
        yield f"{name}: {result['tokens_per_s']:,.0f} tokens/s{share}{target}; {attention}; {linears}"


def _ratios(record: dict[str, Any]) -> Iterator[str]:
    results = record["results"]
    for name, ours in results.items():
        if not name.startswith("ours, "):
            continue
        kind = name.removeprefix("ours, ")
        peers = {
            key: each["tokens_per_s"] for key, each in results.items() if key.startswith(f"peer, {kind}, ") and each
        }
        if peers:
            best = max(peers, key=lambda key: peers[key])
            yield f"{kind}: {ours['tokens_per_s'] / peers[best]:.2f} times the peer's best ({best}; target 2)"


def _losses(record: dict[str, Any]) -> Iterator[str]:
    results = record["results"]
    reference = results.get("losses, bf16")
    for name, each in results.items():
        if name.startswith("losses, ") and reference and each is not reference:
            steps = min(each["steps"], reference["steps"])
            last = max(1, steps // 6)
            mine, other = (sum(run["losses"][steps - last : steps]) / last for run in (each, reference))
            yield f"{name}: {mine:.4f}, bf16 {other:.4f}, apart by {abs(mine - other) / other:.2%} (limit 1 %)"


def _left_out(record: dict[str, Any]) -> Iterator[str]:
    for name, reason in record["left_out"].items():
        yield f"left out: {name}: {reason}"
