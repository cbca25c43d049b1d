"""What all sections of the recipe have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class PlacedError(ValueError):
    """A failed check over several keys; ``place`` says which of them the message is about."""

    def __init__(self, message: str, *place: str) -> None:
        super().__init__(message)
        self.place = place
