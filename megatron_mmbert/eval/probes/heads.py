"""Heads by the names that task files call them."""

from __future__ import annotations

from megatron_mmbert.eval.probes.base import Head
from megatron_mmbert.eval.probes.bits import Bits
from megatron_mmbert.eval.probes.classification import Classification
from megatron_mmbert.eval.probes.retrieval import Bitext, Passages
from megatron_mmbert.eval.probes.tagging import Tagging

HEADS: dict[str, Head] = {
    "bitext": Bitext(),
    "passages": Passages(),
    "classification": Classification(),
    "pair": Classification(),
    "tagging": Tagging(),
    "bits": Bits(),
}
