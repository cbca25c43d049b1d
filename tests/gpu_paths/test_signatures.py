"""Our calls into GPU libraries fit the signatures of their versions, which are stored beside this file.

Stubs with those signatures stand in the libraries' places, and our own code calls them. read_signatures.py makes the
files; a name or a parameter that a new version drops fails here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from inspect import Parameter, Signature
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.attention.flex_attention
import torch.nn.attention.varlen
from torch import Tensor

from megatron_mmbert.attention import SequenceLayout
from megatron_mmbert.attention.engines import flash, flex, te, varlen
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.kernels import fp8

STORED = [json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "signatures").glob("*.json"))]
WINDOWS = (None, 64)


def of(package: str) -> list[Any]:
    """Return the stored versions of a package."""
    return [
        pytest.param(stored["functions"], id=stored["version"]) for stored in STORED if stored["package"] == package
    ]


def signature(parameters: list[str]) -> Signature:
    found, kind = [], Parameter.POSITIONAL_OR_KEYWORD
    for each in parameters:
        if each.startswith("**"):
            found.append(Parameter(each[2:], Parameter.VAR_KEYWORD))
        elif each.startswith("*"):
            kind = Parameter.KEYWORD_ONLY
            if each != "*":
                found.append(Parameter(each[1:], Parameter.VAR_POSITIONAL))
        else:
            found.append(Parameter(each.rstrip("="), kind, default=None if each.endswith("=") else Parameter.empty))
    return Signature(found)


class Stubs:
    """Modules whose functions take what the stored ones take.

    Attributes:
        called: names of what was called.
    """

    def __init__(self, functions: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
        self.called: set[str] = set()
        for public, parameters in functions.items():
            module, _, name = public.partition(":")
            for depth in range(1, module.count(".") + 2):
                parent = ".".join(module.split(".")[:depth])
                if not isinstance(sys.modules.get(parent), ModuleType):
                    monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
            owner, _, method = name.rpartition(".")
            target: Any = sys.modules[module]
            if owner:
                known = vars(target).get(owner)
                target = known if isinstance(known, SimpleNamespace | _Class) else SimpleNamespace()
                monkeypatch.setattr(sys.modules[module], owner, target, raising=False)
                monkeypatch.setattr(target, method, self._checked(public, parameters), raising=False)
            else:
                stub = (
                    _Class(self._checked(public, parameters))
                    if name[0].isupper()
                    else self._checked(public, parameters)
                )
                monkeypatch.setattr(target, name, stub, raising=False)

    def _checked(self, public: str, parameters: list[str]) -> Callable[..., Any]:
        takes = signature(parameters)

        def call(*arguments: Any, **options: Any) -> Any:
            takes.bind(*arguments, **options)
            self.called.add(public)
            return (True, "") if options.get("return_reason") else MagicMock()

        return call


class _Class:
    """A class: called, it gives an object that is called by the signature of ``forward``."""

    forward: Callable[..., Any]

    def __init__(self, construct: Callable[..., Any]) -> None:
        self._construct = construct

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._construct(*arguments, **options)
        return _Instance(self)


class _Instance(MagicMock):
    def __init__(self, of: Any = None, **options: Any) -> None:
        super().__init__(**options)
        if of is not None:
            self.side_effect = lambda *arguments, **options: of.forward(*arguments, **options)


@pytest.fixture
def packed() -> tuple[list[Tensor], SequenceLayout]:
    layout = SequenceLayout(torch.tensor([0, 100, 128], dtype=torch.int32), 100)
    return list(torch.randn(3, 128, 2, 64)), layout


@pytest.mark.parametrize("functions", of("transformer_engine"))
def test_transformer_engine(functions: dict[str, list[str]], packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, layout = packed
    for name in [each for each in sys.modules if each.split(".")[0] == "transformer_engine"]:
        monkeypatch.delitem(sys.modules, name)
    stubs = Stubs(functions, monkeypatch)
    recipes = sys.modules["transformer_engine.common.recipe"]
    monkeypatch.setattr(recipes, "Format", SimpleNamespace(HYBRID=1, E4M3=2), raising=False)
    monkeypatch.setattr(fp8, "te_problem", lambda: None)
    monkeypatch.setattr(fp8, "cuda_milliseconds", lambda work: work() or 1.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "randn", MagicMock())
    monkeypatch.setattr(te, "_module", te._module.__wrapped__)  # not the one of another version
    for window in WINDOWS:
        te.attend(*qkv, layout, window)
    for scaling in fp8.SCALINGS:
        assert fp8.fp8_unsupported_reason(scaling) is None
        assert len(fp8.probe(ModelConfig(), 128, scaling)) == 4
    with fp8.fp8_disabled():
        pass
    assert stubs.called == functions.keys(), "a signature is stored that nothing calls"


@pytest.mark.parametrize("functions", of("flash_attn"))
def test_flash_attn(functions: dict[str, list[str]], packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, layout = packed
    stubs = Stubs(functions, monkeypatch)
    for window in WINDOWS:
        flash.attend(*qkv, layout, window)
    assert stubs.called == functions.keys()


@pytest.mark.parametrize("functions", of("torch"))
def test_torch(functions: dict[str, list[str]], packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, layout = packed
    stubs = Stubs(functions, monkeypatch)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(flex, "_compiled", flex._compiled.__wrapped__)
    for window in WINDOWS:
        flex.attend(*qkv, SequenceLayout(layout.cu_seqlens, 100), window)
        with pytest.raises(AssertionError):  # the stub's result is no tensor
            varlen.attend(*qkv, layout, window)
    assert stubs.called == functions.keys()


def test_a_parameter_that_is_gone_is_seen(packed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, layout = packed
    Stubs({"flash_attn:flash_attn_varlen_func": ["q", "k", "v", "cu_seqlens_q", "cu_seqlens_k", "*"]}, monkeypatch)
    with pytest.raises(TypeError, match="too many positional arguments"):
        flash.attend(*qkv, layout, None)
