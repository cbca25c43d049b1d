"""The number of layers of each pipeline stage, such that no stage waits for a fuller one.

The embedding counts as one layer. The head counts as the layers whose matrix products cost what its own do: with a
quarter of a million words the decoder of one masked position costs as much as many layers.
"""

from __future__ import annotations

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.utils.errors import UserError

EMBEDDING_IN_LAYERS = 1


def head_in_layers(model: ModelConfig, scored_share: float) -> int:
    """Return the head's cost in layers, at least 1, where ``scored_share`` of the positions are masked."""
    width = model.hidden_size
    layer = 4 * width * width + 3 * width * model.ffn_hidden_size
    return max(1, round(scored_share * (width * width + width * model.vocab_size) / layer))


def scored_for_balance(phase: Phase) -> float:
    """Return the scored share of a micro batch's tokens that pipeline stages and memory are balanced for.

    The largest over the phase: a stage's memory must hold throughout, and layers do not move while a phase trains.
    Training and the memory plan both ask here, so that they split a recipe the same way.
    """
    return phase.mask_ratio.largest


def balanced_split(layers: int, stages: int, head_cost: int) -> list[int]:
    """Return the layers of each stage in order, such that the fullest stage is as empty as can be.

    Among such splits the layers that are left over go to inner stages, which hold neither the embedding nor the head.

    Raises:
        UserError: an inner stage would have no layer.
    """
    if layers < stages - 2:
        raise UserError(
            f"{layers} layers cannot fill {stages} pipeline stages; lower parallel.pipeline or parallel.virtual_stages"
        )
    extra = [0] * stages
    extra[0] += EMBEDDING_IN_LAYERS
    extra[-1] += head_cost
    split = [1 if 0 < place < stages - 1 else 0 for place in range(stages)]
    inner_first = sorted(range(stages), key=lambda place: place in (0, stages - 1))
    for _ in range(layers - sum(split)):
        emptiest = min(inner_first, key=lambda place: split[place] + extra[place])
        split[emptiest] += 1
    return split


def stage_layout(model: ModelConfig, stages: int, given: list[int] | None, scored_share: float) -> list[list[str]]:
    """Return Megatron-Core's ``pipeline_model_parallel_layout``, stage by stage.

    Args:
        given: layers of each stage, by default :func:`balanced_split`.
    """
    split = given or balanced_split(model.num_layers, stages, head_in_layers(model, scored_share))
    layout = [["decoder"] * layers for layers in split]
    layout[0].insert(0, "embedding")
    layout[-1].append("loss")
    return layout
