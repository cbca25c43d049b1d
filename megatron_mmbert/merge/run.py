"""A merge from its request to a finished folder: checks, then one tensor of all models at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from megatron_mmbert.checkpoint.identity import NAMES, TOKENIZER, Identity, check_names, check_same, differing
from megatron_mmbert.config.merge import METHODS, MergeOptions
from megatron_mmbert.merge.methods import merge_tensor, norm
from megatron_mmbert.merge.request import FLAGS, MergeRequest
from megatron_mmbert.merge.sources import TensorSource, open_source
from megatron_mmbert.utils.errors import UserError, nearest
from megatron_mmbert.utils.files import write_json
from megatron_mmbert.utils.finite import finite_problem
from megatron_mmbert.utils.outputs import check_output, output_folder

REPORT = "merge_report.json"


def check_same_tensors(sources: Sequence[TensorSource]) -> list[str]:
    """Return the names that all sources share, in the first one's order.

    Raises:
        UserError: a source lacks a tensor, has one more, or has one of another shape.
    """
    first = sources[0]
    names = first.names()
    for other in sources[1:]:
        missing, extra = set(names) - set(other.names()), set(other.names()) - set(names)
        if missing:
            hint = nearest(min(missing), extra)
            raise UserError(
                f"{other.path}: lacks tensor {min(missing)} of {first.path}{hint}; merge models of one kind"
            )
        if extra:
            raise UserError(f"{other.path}: tensor {min(extra)} is not in {first.path}; merge models of one kind")
        for name in names:
            if other.shape(name) != first.shape(name):
                raise UserError(
                    f"{other.path}: {name} has shape {list(other.shape(name))}, but {list(first.shape(name))} in "
                    f"{first.path}; merge models of one size and vocabulary"
                )
    return names


def check_same_function(sources: Sequence[TensorSource], allowed: Sequence[str] = ()) -> list[str]:
    """Return the names of the allowed values in which the sources do differ from the first, which the result follows.

    Raises:
        UserError: one differs in another value that changes what a model computes, or ``allowed`` has an unknown name.
    """
    names = {name: None for source in sources for name in source.identity.values}
    check_names(allowed, {*NAMES, *names})
    # A configuration without a key has the default of its kind of model: another function than one that states it.
    defaults = {name: "not stated" for name in names if name != TOKENIZER}
    first, *others = (Identity(each.place, {**defaults, **each.values}) for each in (s.identity for s in sources))
    for other in others:
        check_same(other, first, "merge models of one tokenizer and configuration", allowed)
    return sorted({name for other in others for name in differing(other, first)})


def merge_one(
    name: str, method: str, base: TensorSource | None, models: Sequence[TensorSource], options: MergeOptions
) -> tuple[Tensor, dict[str, Any]]:
    """Return the merged tensor, in the precision of the base or else the first model, and its entry in the report.

    Raises:
        UserError: the result is not finite, or integers differ.
    """
    start = base.load(name) if base is not None else None
    tensors = [model.load(name) for model in models]
    reference = tensors[0] if start is None else start
    if not reference.is_floating_point():
        for model, tensor in zip(models, tensors, strict=True):
            if not torch.equal(tensor, reference):
                raise UserError(
                    f"{model.path}: {name} holds integers that differ between models; they cannot be merged"
                )
        return reference, {"shape": list(reference.shape), "copied": True}
    merged, share = merge_tensor(method, start, tensors, options)
    result = merged.to(reference.dtype)
    if problem := finite_problem(result, name):
        raise UserError(f"the merge by {method}: {problem}; choose smaller --weights or a smaller --lambda")
    report: dict[str, Any] = {"shape": list(merged.shape), "merged_norm": norm(merged)}
    if start is not None:
        report["base_norm"] = norm(start)
        report["delta_norms"] = [norm(tensor.float() - start.float()) for tensor in tensors]
        report["merged_delta_norm"] = norm(merged - start.float())
    if share is not None:
        report["sign_conflict_share"] = share
    return result, report


def merge_folders(request: MergeRequest, output: Path, overwrite: bool = False) -> dict[str, Any]:
    """Merge checkpoints into ``output``, which is written whole or not at all.

    Args:
        overwrite: replace an existing ``output``.

    Returns:
        The content of ``merge_report.json``.

    Raises:
        UserError: a request that its method cannot do, unreadable or unlike checkpoints, or an ``output`` that exists
            or is an input.
    """
    request.check()
    method, base, models, options = request.method, request.base, request.models, request.options
    inputs = [*([base] if base is not None else []), *models]
    base_source = open_source(base) if base is not None else None
    model_sources = [open_source(path) for path in models]
    sources = [*([base_source] if base_source is not None else []), *model_sources]
    check_output(output, sources[0].kind, inputs, overwrite)
    names = check_same_tensors(sources)
    different = check_same_function(sources, request.allow_different)
    for source in sources:
        source.verify(request.allow_different)
    used = asdict(options) | {"weights": options.weights_for(len(models))}
    merged: dict[str, Tensor] = {}
    lines: dict[str, Any] = {}
    with output_folder(output, sources[0].kind, inputs, overwrite) as folder:
        with tqdm(names, desc=f"merging ({method})", unit="tensor") as bar:  # closed before an error is said
            for name in bar:
                merged[name], lines[name] = merge_one(name, method, base_source, model_sources, options)
        sources[0].write_like(folder, merged)
        report = {
            "method": method,
            "options": {FLAGS[option].lstrip("-"): used[option] for option in METHODS[method].options},
            "base": None if base is None else str(base),
            "models": [str(path) for path in models],
            "identity": dict(sources[0].identity.values),
            "different": {name: [source.identity.values.get(name) for source in sources] for name in different},
            "summary": summarize(lines),
            "tensors": lines,
        }
        write_json(folder / REPORT, report)
        sources[0].finalize(folder)
    return report


def summarize(lines: dict[str, Any]) -> dict[str, Any]:
    """Return the whole model's delta norms, and its sign conflicts as the mean over tensors weighted by their size."""
    moved = [line for line in lines.values() if "delta_norms" in line]
    summary: dict[str, Any] = {"tensors": len(lines)}
    if moved:
        columns = zip(*(line["delta_norms"] for line in moved), strict=True)
        summary["delta_norms"] = [sum(value**2 for value in column) ** 0.5 for column in columns]
        summary["merged_delta_norm"] = sum(line["merged_delta_norm"] ** 2 for line in moved) ** 0.5
    shares = [line for line in moved if "sign_conflict_share" in line]
    if shares:
        sizes = [float(torch.Size(line["shape"]).numel()) for line in shares]
        weighted = sum(size * line["sign_conflict_share"] for size, line in zip(sizes, shares, strict=True))
        summary["sign_conflict_share"] = weighted / sum(sizes)
    return summary
