"""The guard examples of the shop, run by a worker in this process."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from kit.waiting import PATIENCE
from windlass import Windlass
from windlass.worker.layout import PoolPlan
from windlass.worker.worker import Worker, WorkerOptions

EXAMPLES = Path(__file__).parents[2] / "examples"


@contextmanager
def working(app: Windlass) -> Iterator[None]:
    options = WorkerOptions(pools=[PoolPlan("common", (), 4, 4)])
    worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, options, clock=app.clock)
    worker.start()
    try:
        yield
    finally:
        worker.stop()
        worker.shut_down()


@pytest.fixture
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """One module of the shop, on a fresh store."""
    monkeypatch.setenv("WINDLASS_URL", "memory://")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    name = f"shop.{request.param}"
    sys.modules.pop(name, None)
    module = importlib.import_module(name)
    yield module
    module.app.close()
    sys.modules.pop(name, None)


@pytest.mark.parametrize("example", ["payments"], indirect=True)
def test_a_payment_that_is_delivered_three_times_is_charged_once(example: ModuleType) -> None:
    handles = [example.charge.enqueue(7, 1_000) for _ in range(3)]
    with working(example.app):
        assert {handle.result("30s") for handle in handles} == {"receipt-7"}
    assert example.gateway.calls == 1
    assert example.gateway.charged == {"payment:7": 1_000}


@pytest.mark.parametrize("example", ["payments"], indirect=True)
def test_bookings_on_one_account_follow_each_other(example: ModuleType) -> None:
    handles = [example.book.enqueue("ada", 5) for _ in range(10)]
    with working(example.app):
        assert sorted(handle.result("60s") for handle in handles) == [5 * n for n in range(1, 11)]


@pytest.mark.parametrize("example", ["external_api"], indirect=True)
def test_jobs_wait_while_the_service_is_down_and_flow_when_it_is_back(example: ModuleType) -> None:
    down = threading.Event()
    example.app.on(importlib.import_module("windlass.events").CircuitOpened)(lambda _event: down.set())
    example.service.down = True
    handles = [example.rate_of.enqueue(country) for country in ["FR", "DE"] * 20]
    with working(example.app):
        assert down.wait(PATIENCE)
        example.service.down = False
        example.tax.close()
        assert {handle.result("60s") for handle in handles} == {0.2, 0.19}
    assert example.news[0].startswith("tax is down: TaxServiceError: 503")
    assert "tax is back" in example.news
