"""The base class of the recipe's sections, and what several packages must agree on whatever the recipe says."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

SPECIAL_TOKENS_PER_SAMPLE = 2
"""``<bos>`` before and ``<eos>`` after the ids of every sample."""

IGNORED_LABEL = -100
"""The label of a position that no loss is computed for; ``torch.nn.functional.cross_entropy`` ignores it by default."""

PACK_MULTIPLE = 128
"""A pack's tokens are a multiple of this: every matrix shape is then aligned for FP8 and tensor parallelism."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values cannot change after validation.

    Every number has its range (:func:`megatron_mmbert.config.values.within`), which NaN and infinity are out of.

    The string below a field is its description, with its unit; ``Section.model_fields[name].description`` returns it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)


class PlacedError(ValueError):
    """A failed check over several keys; ``place`` is the path of the key that the message is about."""

    def __init__(self, message: str, *place: str) -> None:
        super().__init__(message)
        self.place = place
