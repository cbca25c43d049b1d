"""The library of fp32 products: chosen by processor, exact, left alone where the program has chosen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megatron_mmbert.kernels import fp32_matmul

SETTINGS = torch.backends.mkldnn.matmul


@pytest.fixture(autouse=True)
def unset() -> Iterator[None]:
    before, SETTINGS.fp32_precision = SETTINGS.fp32_precision, "none"
    fp32_matmul.is_onednn_faster.cache_clear()
    yield
    fp32_matmul.is_onednn_faster.cache_clear()
    SETTINGS.fp32_precision = before


@pytest.mark.parametrize("shape", [(1, 384, 1152), (129, 384, 1153), (384, 2048, 384), (500, 384, 32_000)])
def test_products_keep_fp32_with_what_is_chosen_here(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    torch.manual_seed(1)
    x, w = torch.randn(m, k), torch.randn(n, k)
    expected = x.double() @ w.double().t()
    with fp32_matmul.fastest():
        for product in (x @ w.t(), (w @ x.t()).t(), torch.addmm(torch.zeros(m, n), x, w.t())):
            assert (product - expected).abs().max() < 4e-6 * expected.abs().max()


def test_the_choice_is_by_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu_info = tmp_path / "cpuinfo"
    monkeypatch.setattr(fp32_matmul, "_CPU_INFO", cpu_info)
    monkeypatch.setattr(fp32_matmul, "_keeps_fp32", lambda: True)

    def chosen(vendor: str, **has: bool) -> str:
        cpu_info.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
        fp32_matmul.is_onednn_faster.cache_clear()
        return fp32_matmul.backend()

    assert chosen("AuthenticAMD", avx512_f=True, amx_tile=False) == "oneDNN"
    assert chosen("GenuineIntel", avx512_f=True, amx_tile=False) == "MKL"
    assert chosen("AuthenticAMD", avx512_f=False) == "MKL"
    assert chosen("AuthenticAMD", avx512_f=True, amx_tile=True) == "MKL"  # there oneDNN takes bf16
    monkeypatch.setattr(fp32_matmul, "_keeps_fp32", lambda: False)
    assert chosen("AuthenticAMD", avx512_f=True) == "MKL"
    cpu_info.unlink()
    monkeypatch.setattr(fp32_matmul, "_keeps_fp32", lambda: True)
    fp32_matmul.is_onednn_faster.cache_clear()
    assert fp32_matmul.backend() == "MKL"


def test_a_library_that_rounds_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fp32_matmul._keeps_fp32() or torch.cpu.get_capabilities().get("amx_tile")
    exact = torch.mm
    monkeypatch.setattr(torch, "mm", lambda x, y: exact(x.bfloat16(), y.bfloat16()).float())
    assert not fp32_matmul._keeps_fp32()
    assert SETTINGS.fp32_precision == "none"


def test_what_the_program_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp32_matmul, "is_onednn_faster", lambda: True)
    monkeypatch.setattr(fp32_matmul.os, "environ", found := {"LRU_CACHE_CAPACITY": "7"})
    SETTINGS.fp32_precision = "ieee"
    fp32_matmul.use_fastest()
    assert SETTINGS.fp32_precision == "ieee"
    SETTINGS.fp32_precision = "none"
    fp32_matmul.use_fastest()
    assert SETTINGS.fp32_precision == "bf16"
    assert found == {"LRU_CACHE_CAPACITY": "7", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "48"}


def test_memory_does_not_grow_with_the_number_of_shapes_in_bf16() -> None:
    """oneDNN compiles for every shape; with AMX 400 of these take 60 MB and more without the bound."""
    if not torch.cpu.get_capabilities().get("avx512_bf16"):
        pytest.skip("this processor has no bf16 products: oneDNN keeps no kernels of them, and 800 take minutes")
    code = """
import resource, sys, torch
from megatron_mmbert.kernels import fp32_matmul
if sys.argv[1] == "bounded":
    fp32_matmul.use_fastest()
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
def products(sizes):
    for size in sizes:
        torch.mm(torch.ones(size, 384, dtype=torch.bfloat16), torch.ones(384, 1152, dtype=torch.bfloat16))
products(range(1024, 1032))
before = peak()
products(range(624, 1024))
print(peak() - before)
"""
    run = [sys.executable, "-c", code]
    free = {name: value for name, value in os.environ.items() if name not in fp32_matmul._CACHES}
    grown = {
        how: int(subprocess.run([*run, how], env=free, capture_output=True, text=True, check=True).stdout)
        for how in ("free", "bounded")
    }
    if grown["free"] < 20:
        pytest.skip(f"oneDNN keeps {grown['free']} MB of 400 shapes on this processor")
    assert grown["bounded"] < grown["free"] / 2, grown


def test_a_block_leaves_the_setting_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp32_matmul, "is_onednn_faster", lambda: True)
    with pytest.raises(ZeroDivisionError), fp32_matmul.fastest():
        assert SETTINGS.fp32_precision == "bf16"
        raise ZeroDivisionError
    assert SETTINGS.fp32_precision == "none"
    torch.get_float32_matmul_precision()  # raises where settings of old and new kind are mixed
