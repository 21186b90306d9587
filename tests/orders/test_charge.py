"""`orders.charge` against a gateway that fails in every way it can, and `orders.release`."""

from __future__ import annotations

import pytest

from config.settings import MissingSettingError
from console.demo import gateway as demo_gateway
from console.demo.serving import running
from pipelines.orders.charge import ChargeOrder
from pipelines.orders.gateway import gateway as gateway_client
from pipelines.orders.release import ReleaseStock
from pipelines.orders.settings import settings
from tests.orders.conftest import close
from tests.orders.direct import Job, Outside, Shop, at_once


def placed(shop: Shop, **how: str) -> tuple[Job, Job]:
    """An order of three mugs with a discount, and its charge, yet to be run."""
    shop.stock_up(price=500)
    shop.offer("SALE", "fixed", 100, max_uses=5)
    order = shop.run(shop.order(("MUG", 3), code="SALE", **how))
    return order, shop.only("orders.charge")


def test_a_captured_charge_pays_the_order_and_submits_its_shipment(shop: Shop, gateway: Outside):
    order, charge = placed(shop)

    shop.run(charge)

    assert shop.state_of(order) == "paid"
    assert shop.stock_of() == (7, 0, 3)
    assert shop.scalar("select amount from orders.payments") == gateway.books()["captured"] == 1400
    assert shop.only("orders.ship").command.model_dump(mode="json")["order_id"] == str(order.id)
    assert shop.compare(gateway) == ()


def test_a_declined_card_is_rejected_and_gives_stock_and_discount_back_once(shop: Shop, gateway: Outside):
    order, charge = placed(shop, card="tok_declined")

    shop.run(charge)
    release = shop.only("orders.release")
    doubles = [shop.submit(release.command) for _ in range(10)]
    at_once(10, lambda number: shop.run(doubles[number]))
    shop.run(release)

    assert (charge.state, charge.error.code, str(charge.error)) == (
        "rejected",
        "card_declined",
        "the card was declined: insufficient funds",
    )
    assert shop.state_of(order) == "cancelled"
    assert (shop.count("orders.release", "succeeded"), shop.count("orders.release", "rejected")) == (1, 10)
    assert shop.stock_of() == (10, 0, 0)
    assert shop.scalar("select uses from orders.discounts") == 0
    assert gateway.books()["charges"] == []


def test_a_gateway_that_charged_and_then_answered_500_charges_once(shop: Shop, gateway: Outside):
    order, charge = placed(shop)
    gateway.switch("error_after", count=1)

    shop.run(charge)
    first = (charge.state, charge.error.code)
    shop.run(charge)

    assert first == ("failed", "unavailable")
    assert (charge.state, shop.state_of(order)) == ("succeeded", "paid")
    assert (len(gateway.books()["charges"]), gateway.books()["repeats"]) == (1, 1)
    assert shop.compare(gateway) == ()


def test_a_gateway_that_answers_too_late_charges_once(shop: Shop, gateway: Outside, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HAULIER_GATEWAY_TIMEOUT", "0.3")
    settings.cache_clear()
    _, charge = placed(shop)
    gateway.switch("slow", seconds=1, count=1)

    shop.run(charge)
    first = (charge.state, str(charge.error))
    shop.run(charge)

    assert first[0] == "failed"
    assert "did not answer: ReadTimeout" in first[1]
    assert charge.state == "succeeded"
    assert shop.compare(gateway) == ()


def test_a_charge_recorded_before_its_worker_died_is_not_asked_for_again(shop: Shop, gateway: Outside):
    order, charge = placed(shop)

    def die(_job: Job) -> None:
        raise ConnectionError("the worker died before its commit")

    shop.before_commit = die
    shop.run(charge)
    shop.before_commit = lambda _job: None
    unpaid = shop.state_of(order)
    shop.run(charge)

    assert (unpaid, shop.state_of(order)) == ("reserved", "paid")
    assert gateway.books()["requests"] == 1


def test_an_outage_is_retried_no_sooner_than_the_gateway_says(shop: Shop, gateway: Outside):
    order, charge = placed(shop)
    gateway.switch("outage", count=1)

    shop.run(charge)
    first = (charge.state, charge.error.code, charge.error.retry_after)
    stock = shop.stock_of()
    shop.run(charge)

    assert first == ("failed", "unavailable", 1)
    assert stock == (7, 3, 0)
    assert shop.state_of(order) == "paid"


def test_a_gateway_that_is_not_there_is_an_outage_too(shop: Shop, gateway: Outside, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HAULIER_GATEWAY_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    _, charge = placed(shop)

    shop.run(charge)

    assert (charge.state, charge.error.code) == ("failed", "unavailable")


@pytest.mark.parametrize("fault", ["garbage", "wrong_amount"])
def test_an_answer_that_cannot_be_right_needs_a_person_and_a_replay_finds_the_one_charge(shop: Shop, gateway: Outside, fault: str):
    order, charge = placed(shop)
    gateway.switch(fault, count=1)

    shop.run(charge)
    died = (charge.state, charge.error.code, shop.state_of(order), shop.stock_of())
    shop.run(charge)

    assert died == ("dead", "garbled_answer", "reserved", (7, 3, 0))
    assert (charge.state, shop.state_of(order)) == ("succeeded", "paid")
    assert shop.compare(gateway) == ()


def test_a_dead_charge_releases_nothing(shop: Shop, gateway: Outside):
    _, charge = placed(shop)
    gateway.switch("garbage")

    shop.run(charge)
    shop.run_all()

    assert charge.state == "dead"
    assert [job.name for job in shop.jobs] == ["orders.place", "orders.charge"]
    assert shop.stock_of() == (7, 3, 0)


def test_a_second_charge_job_for_one_order_takes_no_money(shop: Shop, gateway: Outside):
    _, charge = placed(shop)
    shop.run(charge)

    double = shop.run(shop.submit(charge.command))

    assert (double.state, double.error.code) == ("dead", "call_refused")
    assert shop.compare(gateway) == ()


def test_a_charge_over_another_amount_than_the_orders_is_not_booked(shop: Shop, gateway: Outside):
    order, charge = placed(shop)
    command = ChargeOrder(order_id=order.id, amount=1, card_token="tok_visa")

    forged = shop.run(shop.submit(command))
    shop.run(charge)

    assert (forged.state, forged.error.code) == ("dead", "wrong_amount")
    assert (charge.state, charge.error.code) == ("dead", "call_refused")
    assert shop.state_of(order) == "reserved"
    assert len(shop.compare(gateway)) == 1


def test_a_paid_order_cannot_be_released(shop: Shop, gateway: Outside):
    order, charge = placed(shop)
    shop.run(charge)

    release = shop.run(shop.submit(ReleaseStock(order_id=order.id)))

    assert (release.state, str(release.error)) == ("rejected", f"order {order.id} is paid, not reserved; it did not become cancelled")
    assert shop.stock_of() == (7, 0, 3)


def test_another_tenant_can_neither_release_nor_charge_an_order(shop: Shop, gateway: Outside):
    order, charge = placed(shop)

    release = shop.run(shop.submit(ReleaseStock(order_id=order.id), tenant="globex"))
    forged = shop.run(shop.submit(charge.command, tenant="globex"))

    assert (release.error.code, forged.error.code) == ("unknown_order", "unknown_order")
    assert shop.state_of(order) == "reserved"


def test_a_gateway_that_ignores_keys_is_found_out_by_its_books(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    with running(demo_gateway.create_app(naive=True)) as url:
        monkeypatch.setenv("HAULIER_GATEWAY_URL", url)
        settings.cache_clear()
        naive = Outside(url)
        naive.switch("error_after", count=1)
        _, charge = placed(shop)

        shop.run(charge)
        shop.run(charge)
        found = shop.compare(naive)
        close(gateway_client())

    assert charge.state == "succeeded"
    assert len(found) == 1
    assert found[0].startswith("charge ch_000001: the gateway took")


def test_a_gateway_that_nobody_configured_is_an_error_that_says_what_to_set(shop: Shop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HAULIER_GATEWAY_URL", raising=False)
    settings.cache_clear()
    _, charge = placed(shop)

    shop.run(charge)

    assert isinstance(charge.error, MissingSettingError)
    assert "HAULIER_GATEWAY_URL is not set; set it to the address" in str(charge.error)
