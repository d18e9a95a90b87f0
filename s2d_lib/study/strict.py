"""The base of everything that stands in params/*.yaml."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Base of all parameter models: unknown keys and infinite or undefined numbers are errors, values can't be changed after
    validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
