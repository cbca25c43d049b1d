"""The README.md of an exported model, generated from its checkpoint's description alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.config.values import LinearRamp

_HEADER = """---
library_name: transformers
pipeline_tag: fill-mask
mask_token: "{mask}"
tags:
- modernbert
---
"""
_USE = """## Use

```python
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

path = "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForMaskedLM.from_pretrained(path).eval()

batch = tokenizer(f"Paris is the capital of {tokenizer.mask_token}.", return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits
place = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
print(tokenizer.decode(logits[0, place].topk(5).indices))
```

The mask token is `{mask}`. Text is framed as `{bos} … {eos}`.
All dropouts are 0 in `config.json`; set them anew to fine-tune with dropout.
"""


def model_card(meta: CheckpointMeta, pieces: Mapping[str, str]) -> str:
    """Return the card in Markdown.

    Args:
        pieces: how the tokenizer writes its special tokens ``mask``, ``bos`` and ``eos``.
    """
    text = "\n".join([_HEADER, f"# {meta.recipe.get('name', 'Encoder')}\n", _summary(meta), *_training(meta), _USE])
    for role in ("mask", "bos", "eos"):
        text = text.replace(f"{{{role}}}", pieces[role])
    return text


def _summary(meta: CheckpointMeta) -> str:
    """Return a paragraph on the network."""
    model = meta.model
    return (
        f"A ModernBERT encoder with a masked-language-model head: {model.num_layers} layers, width "
        f"{model.hidden_size}, {model.num_attention_heads} heads, {model.vocab_size:,} token ids, samples of up to "
        f"{meta.max_length:,} tokens. Every {_ordinal(model.global_attention_every)} layer attends to the whole "
        f"sample, the others to {model.window_each_side} tokens on each side. RoPE theta is {meta.rope_theta:,.0f} in "
        f"global and {meta.rope_theta_local:,.0f} in local layers.\n"
    )


def _training(meta: CheckpointMeta) -> list[str]:
    """Return the section on the tokens seen and the phases."""
    lines = []
    if meta.total_tokens:
        lines.append(f"{meta.total_tokens:,} real tokens were seen in training over all phases")
    if meta.phase and meta.step:
        state = "complete" if meta.finished else "not complete"
        lines.append(f"{meta.phase_tokens:,} of them ({meta.step:,} steps) in phase `{meta.phase}`, which is {state}")
    text = "; ".join(lines) + "." if lines else "The checkpoint has no record of training."
    origin = f" Weights started from: {meta.origin}." if meta.origin else ""
    parts = ["## Training\n", text + origin + "\n"]
    phases = phases_until(meta)
    if phases:
        parts += [_table(phases), _languages(phases), "`recipe.yaml` has all settings.\n"]
    return parts


def phases_until(meta: CheckpointMeta) -> list[dict[str, Any]]:
    """Return the phases of the recipe that lead to the checkpoint, first to last, without later ones."""
    phases = {phase["name"]: phase for phase in meta.recipe.get("phases", [])}
    order = list(phases)
    chain: list[dict[str, Any]] = []
    name: str | None = meta.phase
    while name in phases and len(chain) < len(order):
        phase = phases[name]
        chain.insert(0, phase)
        before = order.index(name) - 1
        name = phase.get("from") or (order[before] if before >= 0 else None)
    return chain


def _table(phases: list[dict[str, Any]]) -> str:
    rows = ["| phase | tokens planned | longest sample | theta | mask ratio | temperature | peak LR |"]
    rows.append("|---|---|---|---|---|---|---|")
    for phase in phases:
        cells = [
            phase["name"],
            f"{phase['tokens']:,}",
            f"{phase['max_length']:,}",
            f"{phase['rope_theta']:,.0f}",
            LinearRamp.model_validate(phase["mask_ratio"]).describe(),
            LinearRamp.model_validate(phase["temperature"]).describe(),
            f"{phase['lr']:g}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _languages(phases: list[dict[str, Any]]) -> str:
    lines = ["Languages by phase:\n"]
    lines += [f"- {phase['name']}: {languages_text(phase['languages'])}" for phase in phases]
    return "\n".join(lines) + "\n"


def languages_text(value: Any) -> str:
    """Return a recipe's choice of languages in words."""
    if isinstance(value, dict):
        where = ", ".join(f"{column} {'/'.join(allowed)}" for column, allowed in value.get("where", {}).items())
        return f"column {value['column']} of {value['table']}" + (f" where {where}" if where else "")
    if isinstance(value, str):
        return f"{value} of the training data"
    return ", ".join(value)


def _ordinal(number: int) -> str:
    return {1: "single", 2: "second", 3: "third"}.get(number, f"{number}th")
