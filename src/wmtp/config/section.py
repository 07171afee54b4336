"""Groups of settings: frozen, strictly typed, and unknown keys are errors."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator, model_validator


class _Group(BaseModel):
    """What all groups of settings share: values are taken as they are typed, `true` is no number."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _null_means_defaults(cls, data: Any) -> Any:
        """Leave out each group inside this one that is null and has defaults."""
        if not isinstance(data, dict):
            return data
        groups = {k for k, field in cls.model_fields.items() if isinstance(field.default, _Group)}
        return {k: v for k, v in data.items() if v is not None or k not in groups}

    @field_validator("*", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """Take `1e9` for a whole number."""
        return int(value) if isinstance(value, float) and value.is_integer() else value


class Section(_Group):
    """A frozen group of settings; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class OpenSection(_Group):
    """A frozen group whose further keys belong to what it names (an algorithm, source, benchmark).

    Those keys are in `options`; `pipeline.py` validates them with the `Config` of what is named,
    so that they are errors too when they are unknown.
    """

    model_config = ConfigDict(extra="allow")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that this section does not declare itself."""
        return dict(self.model_extra or {})
