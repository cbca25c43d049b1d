"""The README.md of an exported model, generated from its checkpoint's description alone.

A description can come from anywhere: what it holds is shown as it is, and is never a key of the header, a link or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.config.values import LinearRamp
from megatron_mmbert.utils.files import to_json

_HEADER = """---
library_name: transformers
pipeline_tag: fill-mask
mask_token: {mask}
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

The mask token is {mask}. Text is framed as {frame}.
All dropouts are 0 in `config.json`; set them anew to fine-tune with dropout.
"""


def model_card(meta: CheckpointMeta, pieces: Mapping[str, str]) -> str:
    """Return the card in Markdown.

    Args:
        pieces: how the tokenizer writes its special tokens ``mask``, ``bos`` and ``eos``.
    """
    mask, frame = code(pieces["mask"]), code(f"{pieces['bos']} … {pieces['eos']}")
    header = _HEADER.replace("{mask}", _quoted(pieces["mask"]))
    use = _USE.replace("{mask}", mask).replace("{frame}", frame)
    title = f"# {plain(meta.recipe.get('name', 'Encoder'))}\n"
    return "\n".join([header, title, _summary(meta), *_training(meta), use])


def plain(value: Any) -> str:
    """Return a value as one line of text in which Markdown and HTML find nothing to interpret."""
    text = " ".join("".join(each if each.isprintable() else " " for each in str(value)).split())
    return re.sub(r"[][&<>`*|\\!~#@$]|(?<=\w)://|(?<![^\W_])_|_(?![^\W_])|www\.", _entities, text)


def code(value: Any) -> str:
    """Return a value as inline code: in backticks, more of them than it holds in a row."""
    text = "".join(each if each.isprintable() else "�" for each in str(value))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    edge = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{edge}{text}{edge}{fence}"


def _entities(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(each)};" for each in match[0])


def _quoted(value: str) -> str:
    """Return a string in double quotes, of one line, as YAML reads it."""
    return to_json("".join(each if each.isprintable() else "�" for each in value), ensure_ascii=False)


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
        lines.append(
            f"{meta.phase_tokens:,} of them ({meta.step:,} steps) in phase {code(meta.phase)}, which is {state}"
        )
    text = "; ".join(lines) + "." if lines else "The checkpoint has no record of training."
    origin = f" Weights started from: {plain(meta.origin)}." if meta.origin else ""
    parts = ["## Training\n", text + origin + "\n"]
    phases = phases_until(meta)
    if phases:
        parts += [_table(phases), _languages(phases), "`recipe.yaml` has all settings.\n"]
    return parts


def phases_until(meta: CheckpointMeta) -> list[dict[str, Any]]:
    """Return the phases of the recipe that lead to the checkpoint, first to last, without later ones."""
    listed = meta.recipe.get("phases", [])
    found = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    phases = {phase["name"]: phase for phase in found if isinstance(phase.get("name"), str)}
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
        counts = [_number(phase.get(key), ",.0f") for key in ("tokens", "max_length", "rope_theta")]
        ramps = [_ramp(phase.get(key)) for key in ("mask_ratio", "temperature")]
        cells = [plain(phase["name"]), *counts, *ramps, _number(phase.get("lr"), "g")]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else plain(value)


def _ramp(value: Any) -> str:
    try:
        return LinearRamp.model_validate(value).describe()
    except ValueError:
        return plain(value)


def _languages(phases: list[dict[str, Any]]) -> str:
    lines = ["Languages by phase:\n"]
    lines += [f"- {plain(phase['name'])}: {plain(languages_text(phase.get('languages')))}" for phase in phases]
    return "\n".join(lines) + "\n"


def languages_text(value: Any) -> str:
    """Return a recipe's choice of languages in words."""
    if isinstance(value, dict):
        allowed = value.get("where")
        rows = allowed.items() if isinstance(allowed, dict) else ()
        where = ", ".join(f"{column} {'/'.join(map(str, names))}" for column, names in rows)
        return f"column {value.get('column')} of {value.get('table')}" + (f" where {where}" if where else "")
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value} of the training data"


def _ordinal(number: int) -> str:
    return {1: "single", 2: "second", 3: "third"}.get(number, f"{number}th")
