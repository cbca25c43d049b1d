"""From the recipe to the model: the encoder's chunks of this rank, and their data-parallel wrappers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

from megatron_mmbert.config.parallel import ParallelConfig
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.kernels.compiled import switch_off
from megatron_mmbert.model.config import EncoderConfig, encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.pipeline_split import scored_for_balance
from megatron_mmbert.model.te_layers import resolve_precision
from megatron_mmbert.parallel.runtime import current


def build_encoders(
    recipe: Recipe,
    phase: Phase,
    set_weights: Callable[[Encoder, int], None] = initialize,
    micro_batch_tokens: int | None = None,
) -> tuple[list[Encoder], str]:
    """Return this rank's chunks of the encoder with fresh weights (one, or several under interleaving).

    Also returned: what the linear layers of the transformer are, a few words for the log.

    Args:
        set_weights: sets a chunk's weights from the seed.
        micro_batch_tokens: the size at which faster layers are tried; by default that of a pack.
    """
    runtime, layout = current(), recipe.parallel
    if recipe.precision.compile == "none":
        switch_off()
    tokens = micro_batch_tokens or phase.batch.pack_tokens
    precision, linear_layers = resolve_precision(recipe.precision, recipe.model, tokens, layout.tensor)
    config = phase_encoder_config(recipe, phase, precision)
    encoders = []
    for chunk in range(layout.virtual_stages):
        first = runtime.is_first_stage and chunk == 0
        last = runtime.is_last_stage and chunk == layout.virtual_stages - 1
        number = chunk if layout.virtual_stages > 1 else None
        encoders.append(Encoder(config, recipe.model.vocab_size, first, last, number).to(runtime.device))
        set_weights(encoders[-1], recipe.seed)
    return encoders, linear_layers


def phase_encoder_config(recipe: Recipe, phase: Phase, precision: PrecisionConfig) -> EncoderConfig:
    """Return the configuration of ``phase``; ``precision`` comes from ``model.te_layers.resolve_precision``."""
    thetas, scored = (phase.rope_theta, phase.theta_local), scored_for_balance(phase)
    return encoder_config(recipe.model, *thetas, recipe.parallel, precision, scored, phase.max_length)


def wrap_for_data_parallel(encoders: Sequence[Encoder], layout: ParallelConfig) -> list[DistributedDataParallel]:
    """Return the chunks in Megatron-Core's data-parallel wrappers, which sum gradients in fp32."""
    config = encoders[0].config
    settings = DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=layout.distributed_optimizer,
        overlap_grad_reduce=layout.overlap,
        overlap_param_gather=layout.overlap and layout.distributed_optimizer,
        bucket_size=layout.bucket_elements,
    )
    wrapped = [
        DistributedDataParallel(config, settings, encoder, disable_bucketing=number > 0)
        for number, encoder in enumerate(encoders)
    ]
    if layout.overlap:
        no_sync = [chunk.no_sync for chunk in wrapped]
        config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]
    return wrapped
