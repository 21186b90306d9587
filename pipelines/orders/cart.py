"""What is ordered and where it goes: the parts that several commands of this domain carry in their payloads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipelines.command import WHOLE


class Line(BaseModel):
    """So many of one product."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sku: str = Field(min_length=1, max_length=100, description="the product's stock keeping unit", examples=["MUG-BLUE"])
    quantity: Annotated[int, Field(ge=1, le=10_000, strict=True), WHOLE] = Field(description="how many")


class Address(BaseModel):
    """Where the parcel goes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=200, description="who receives it")
    street: str = Field(min_length=1, max_length=200, description="street and number")
    postal_code: str = Field(min_length=1, max_length=20, description="as the country writes it")
    city: str = Field(min_length=1, max_length=100)
    country: str = Field(pattern="^[A-Z]{2}$", description="ISO 3166-1 alpha-2, such as DE")


MAX_LINES = 100


def without_doubles(lines: Sequence[Line]) -> Sequence[Line]:
    """The lines as they are. Raises ValueError when two of them name one sku."""
    skus = [line.sku for line in lines]
    double = next((sku for sku in skus if skus.count(sku) > 1), None)
    if double is not None:
        raise ValueError(f"{double!r} is in more than one line; put its whole quantity in one")
    return lines
