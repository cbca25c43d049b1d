"""Initial weights as a pure function of (seed, tensor's name): the same in every parallel layout.

ModernBERT's ``full_megatron``: normal, cut at two sigma; sigma 0.02, and 0.02 / sqrt(2 L) for the matrices that write
into the residual stream. Norm weights are 1, the decoder's bias 0.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

import torch
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from torch import Tensor

from megatron_mmbert.model.config import EncoderConfig, output_init_std
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.parameter_names import ATTENTION_OUTPUT, DECODER, DECODER_BIAS, FC2, WORD_EMBEDDING
from megatron_mmbert.parallel import current
from megatron_mmbert.parallel.shards import local_shard

_LAYER = re.compile(r"(encoder\.layers\.)(\d+)(\..*)")


def logical_name(name: str, config: EncoderConfig, vp_stage: int | None = None) -> str:
    """Return a parameter's name with its layer counted over all pipeline stages, and the tied table under one name.

    Args:
        vp_stage: which of the pipeline rank's chunks the parameter is in, under interleaving.
    """
    if name == DECODER:
        return WORD_EMBEDDING
    match = _LAYER.fullmatch(name)
    if not match:
        return name
    return f"{match[1]}{int(match[2]) + get_transformer_layer_offset(config, vp_stage)}{match[3]}"


def logical_parameters(model: Encoder) -> Iterator[tuple[str, Tensor]]:
    """Yield (logical name, parameter) of this rank's part of the model."""
    for name, parameter in model.named_parameters():
        yield logical_name(name, model.config, model.vp_stage), parameter


@torch.no_grad()
def initialize(model: Encoder, seed: int) -> None:
    """Set every parameter of this rank's part of the model."""
    for name, parameter in logical_parameters(model):
        if name.endswith("norm.weight"):
            parameter.fill_(1.0)
        elif name == DECODER_BIAS:
            parameter.zero_()
        else:
            parameter.copy_(_draw(name, parameter, model.config, seed))


def _draw(name: str, parameter: Tensor, config: EncoderConfig, seed: int) -> Tensor:
    """Return this rank's shard of the logical tensor, which every rank draws whole from the name's own generator."""
    sigma = output_init_std(config) if name.endswith((ATTENTION_OUTPUT, FC2)) else None
    sigma = config.init_method_std if sigma is None else sigma
    parallel = getattr(parameter, "tensor_model_parallel", False)
    dim = parameter.partition_dim if parallel else -1  # type: ignore[attr-defined]
    size = current().tp_size
    shape = list(parameter.shape)
    if dim >= 0:
        shape[dim] *= size
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    full = torch.empty(shape)
    torch.nn.init.trunc_normal_(full, 0.0, sigma, -2 * sigma, 2 * sigma, generator=generator)
    stride = getattr(parameter, "partition_stride", 1)
    return local_shard(full, dim, stride, current().tp_rank, size)
