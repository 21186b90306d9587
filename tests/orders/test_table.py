"""The table of handlers, and what it publishes about each command."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipelines.orders.place import PlaceOrder
from pipelines.table import HANDLERS


@pytest.mark.parametrize("name", HANDLERS)
def test_every_command_is_in_the_table_under_its_own_name_and_accepts_its_example(name: str):
    handler = HANDLERS[name]

    command = handler.command.model_validate(handler.command.example)

    assert handler.name == name
    assert type(command).model_validate_json(command.model_dump_json(exclude_unset=True)) == command


@pytest.mark.parametrize("name", HANDLERS)
def test_every_field_of_a_command_is_described(name: str):
    fields = HANDLERS[name].command.model_json_schema()["properties"]

    undescribed = [field for field, schema in fields.items() if "description" not in schema]

    assert undescribed == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"lines": []},
        {"lines": [{"sku": "MUG", "quantity": 0}]},
        {"lines": [{"sku": "MUG", "quantity": "2"}]},
        {"lines": [{"sku": "MUG", "quantity": 1}, {"sku": "MUG", "quantity": 2}]},
        {"card_token": "4111111111111111"},
        {"gift_wrap": True},
    ],
)
def test_a_cart_that_makes_no_sense_is_no_payload(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        PlaceOrder.model_validate({**PlaceOrder.example, **wrong})
