"""What people see of workflows and of jobs in them: nothing that is redacted, names in place of gates."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from windlass import Windlass, Workflow

Burst = Callable[[], None]


@pytest.mark.parametrize("engine", ["here", "elsewhere"])
def test_what_is_redacted_shows_up_in_no_step(app: Windlass, burst: Burst, url: str, engine: str) -> None:
    @app.job(name="charge", redact=["card"])
    def charge(card: str) -> None:
        raise ValueError(f"card {card} is declined")

    order = Workflow("order", id="order-1")
    order.add(charge.bind("4711-0815"))
    app.start(order)
    burst()
    if engine == "elsewhere" and url != "memory://":
        with Windlass(url) as other:
            (step,) = other.workflow("order-1").steps()
    else:
        (step,) = app.workflow("order-1").steps()
    assert step.error == "ValueError: card ••• is declined"
