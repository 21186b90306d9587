"""The circuit breaker, by a clock that tests turn, and before a real gateway."""

from __future__ import annotations

import threading

import pytest

from pipelines.orders.breaker import Breaker, CircuitOpen, Unavailable
from pipelines.orders.gateway import gateway as gateway_client
from tests.orders.direct import Outside, Shop, at_once


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def fail() -> None:
    raise Unavailable("away")


def broken(clock: Clock, failures: int = 3) -> Breaker:
    """One that has just opened, for five seconds."""
    breaker = Breaker("it", failures=failures, seconds=5, clock=clock)
    for _ in range(failures):
        with pytest.raises(Unavailable):
            breaker.call(fail)
    return breaker


def test_a_circuit_opens_after_failures_in_a_row_and_says_how_long():
    clock = Clock()
    breaker = broken(clock)
    clock.now += 2

    with pytest.raises(CircuitOpen, match=r"it is left alone for another 3\.0 s after repeated failures; it was not called") as error:
        breaker.call(fail)

    assert error.value.retry_after == 3
    assert breaker.is_open


def test_a_success_in_between_keeps_it_closed():
    breaker = Breaker("it", failures=2)

    for _ in range(5):
        with pytest.raises(Unavailable):
            breaker.call(fail)
        breaker.call(lambda: None)

    assert not breaker.is_open


def test_a_no_is_an_answer_and_no_failure():
    breaker = Breaker("it", failures=1)

    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)

    assert not breaker.is_open


def test_when_its_time_is_up_one_of_many_callers_goes_through_as_the_probe():
    clock = Clock()
    breaker = broken(clock)
    clock.now += 5
    refused, calls, release = list[int](), list[int](), threading.Event()

    def call(_number: int) -> None:
        try:
            breaker.call(lambda: (calls.append(1), release.wait(30)))
        except CircuitOpen:
            refused.append(1)
            if len(refused) == 19:
                release.set()

    at_once(20, call)

    assert (len(calls), len(refused)) == (1, 19)
    assert not breaker.is_open


def test_a_probe_that_fails_opens_it_for_as_long_again():
    clock = Clock()
    breaker = broken(clock)
    clock.now += 5

    with pytest.raises(Unavailable):
        breaker.call(fail)
    clock.now += 4.9

    with pytest.raises(CircuitOpen):
        breaker.call(fail)


def test_a_probe_that_never_comes_back_does_not_keep_it_open_for_ever():
    clock = Clock()
    breaker = broken(clock)
    clock.now += 5

    with pytest.raises(KeyboardInterrupt):
        breaker.call(interrupted)
    clock.now += 5
    breaker.call(lambda: None)

    assert not breaker.is_open


def interrupted() -> None:
    raise KeyboardInterrupt


def test_calls_through_a_closed_circuit_run_side_by_side():
    breaker, together = Breaker("it"), threading.Barrier(4)

    at_once(4, lambda _number: breaker.call(lambda: together.wait(30)))

    assert not together.broken


def test_a_gateway_that_is_away_is_left_alone_and_the_charge_waits_without_failing(shop: Shop, gateway: Outside):
    shop.stock_up()
    clock = Clock()
    gateway_client().service.breaker._clock = clock
    order = shop.run(shop.order())
    charge = shop.only("orders.charge")
    gateway.switch("outage")

    for _ in range(8):
        shop.run(charge)
    away = (charge.state, charge.failures, gateway.books()["requests"])
    gateway.switch("none")
    clock.now += 5
    shop.run(charge)

    assert away == ("snoozed", 5, 5)
    assert (charge.state, shop.state_of(order)) == ("succeeded", "paid")
