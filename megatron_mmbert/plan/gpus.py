"""Kinds of GPUs by their makers' datasheets; the sources are named in docs/parallelism.md."""

from __future__ import annotations

from dataclasses import dataclass, replace

from megatron_mmbert.utils.errors import UserError, nearest


@dataclass(frozen=True)
class Gpu:
    """One GPU in a node of eight.

    Attributes:
        memory: bytes.
        peak: dense BF16 FLOPs per second.
        node_link: bytes per second that it sends to GPUs of its node, one direction.
        network: the same to other nodes, its share of the node's adapters.
        per_node: GPUs of a node.
    """

    name: str
    memory: float
    peak: float
    node_link: float
    network: float
    per_node: int = 8


KINDS = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100-80gb", 80e9, 312e12, 300e9, 25e9),
        Gpu("h100", 80e9, 989e12, 450e9, 50e9),
        Gpu("h200", 141e9, 989e12, 450e9, 50e9),
        Gpu("b200", 180e9, 2250e12, 900e9, 50e9),
    )
}


def gpu_of(name: str, node_link: float | None = None, network: float | None = None) -> Gpu:
    """The kind called ``name``, with other bandwidths (bytes per second) where they are given.

    Raises:
        UserError: no such kind.
    """
    if name not in KINDS:
        raise UserError(f"--gpu {name}: no known kind{nearest(name, KINDS)}; choose one of {', '.join(KINDS)}")
    gpu = KINDS[name]
    return replace(gpu, node_link=node_link or gpu.node_link, network=network or gpu.network)
