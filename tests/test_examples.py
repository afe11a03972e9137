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


def test_an_order_is_shipped_or_refunded_or_goes_on_later_and_a_newsletter_says_when_it_is_out() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
    done = subprocess.run(
        [sys.executable, str(SHOP / "orders.py")], capture_output=True, text=True, timeout=150, env=environment
    )
    assert done.returncode == 0, done.stderr + done.stdout
    for text in (
        "2 pieces are on the shelf",
        "ORD-7: a lamp is on its way",
        "ORD-7 was ordered again: duplicate True, succeeded",
        "ORD-8: refunded, and the order has succeeded",
        "ORD-9 stands still: pay done, reserve done, ship dead, refund skipped",
        "The carrier is back. ORD-9: a lamp is on its way",
        "Paid: paid-order-ORD-7-pay, paid-order-ORD-9-pay",
    ):
        assert text in done.stdout
    assert "The newsletter is out: 2500 of 2500 mails" in done.stdout


def test_a_checkout_charges_once_though_it_is_retried_and_killed() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
    done = subprocess.run(
        [sys.executable, str(SHOP / "checkout.py")], capture_output=True, text=True, timeout=150, env=environment
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "parcel of ORD-7, 4200 cents, attempt 2" in done.stdout
