"""The examples beside the demo, run as their docstrings say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SHOP = Path(__file__).parents[1] / "examples" / "shop"


def test_dead_letters_are_grouped_edited_and_worked_off(store: dict[str, str]) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
    environment |= store
    done = subprocess.run(
        [sys.executable, str(SHOP / "dead_letters.py")], capture_output=True, text=True, timeout=150, env=environment
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "3 x ValueError in shop.dead_letters.take_payment" in done.stdout
    assert "3 of 3 were run again, 0 of them died again" in done.stdout
    assert "3 discarded, 0 left" in done.stdout


def test_an_order_goes_step_by_step_and_a_newsletter_says_when_it_is_out() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
    done = subprocess.run(
        [sys.executable, str(SHOP / "orders.py")], capture_output=True, text=True, timeout=150, env=environment
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "the order is paid, and not shipped" in done.stdout
    assert "parcel ORD-7 is on its way" in done.stdout
    assert "The newsletter is out: 2500 of 2500 mails" in done.stdout


def test_a_checkout_charges_once_though_it_is_retried_and_killed() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
    done = subprocess.run(
        [sys.executable, str(SHOP / "checkout.py")], capture_output=True, text=True, timeout=150, env=environment
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "parcel of ORD-7, 4200 cents, attempt 2" in done.stdout
