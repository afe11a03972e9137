"""Make ``orders.csv``: ten thousand orders that look real, the same ones at every run.

Run it with ``python examples/shop/make_orders.py``; the file it writes is kept with the code.
"""

from __future__ import annotations

import csv
from datetime import date, timedelta
from pathlib import Path
from random import Random

COUNT = 10_000
SEED = 1887
FIRST_DAY = date(2025, 3, 1)
DAYS = 180

FIRST = """
Amélie Aisha Anders Beatriz Carlos Chiara Daan Dorota Elif Emma Farid Fiona Giulia Goran Hanna Hugo Ines Ivan Jamal
Jana Katarina Kofi Lars Leila Luca Maja Mateo Milan Nadia Nils Olga Oscar Petra Priya Rafael Rosa Sami Sofia Tariq
Teresa Tomasz Valentina Wei Yara Yusuf Zoë
"""
LAST = """
Abbas Almeida Andersen Bakker Bauer Becker Bianchi Bonnet Castro Claes Conti Costa Diallo Dubois Eriksson Fischer
Fontana Garcia Haas Hansen Horvat Janssen Jensen Keller Kowalski Lambert Lefebvre Lindqvist Lopes Marino Meyer Moreau
Murphy Nagy Novak Okafor Olsen Peeters Petrov Popescu Ricci Rossi Schmidt Silva Sørensen Virtanen Weber Wójcik Yilmaz
Zimmermann
"""
# City and the currency it pays in; bigger cities order more.
CITIES = {
    ("Paris", "EUR"): 12, ("Lyon", "EUR"): 5, ("Marseille", "EUR"): 4, ("Berlin", "EUR"): 9, ("Hamburg", "EUR"): 5,
    ("München", "EUR"): 5, ("Amsterdam", "EUR"): 6, ("Utrecht", "EUR"): 3, ("Bruxelles", "EUR"): 4,
    ("Milano", "EUR"): 6, ("Torino", "EUR"): 3, ("Madrid", "EUR"): 7, ("Lisboa", "EUR"): 4, ("Wien", "EUR"): 5,
    ("Dublin", "EUR"): 3, ("Helsinki", "EUR"): 3, ("London", "GBP"): 11, ("Leeds", "GBP"): 3, ("Glasgow", "GBP"): 3,
    ("Zürich", "CHF"): 4, ("Genève", "CHF"): 2, ("Stockholm", "SEK"): 5, ("Göteborg", "SEK"): 2,
    ("København", "DKK"): 4, ("Oslo", "NOK"): 3, ("Warszawa", "PLN"): 5, ("Kraków", "PLN"): 3, ("Praha", "CZK"): 3,
}  # fmt: skip
# Product line: share of the orders, and the usual lowest and highest price in euros.
LINES = {
    "coffee beans": (22, 9.50, 48.00), "tea": (12, 5.90, 36.00), "grinders": (6, 39.00, 349.00),
    "espresso machines": (3, 189.00, 1890.00), "filters": (14, 3.20, 12.90), "mugs": (11, 8.90, 64.00),
    "kettles": (6, 29.00, 179.00), "chocolate": (12, 4.50, 42.00), "gift boxes": (8, 25.00, 120.00),
    "spare parts": (6, 2.90, 89.00),
}  # fmt: skip
RATE = {"EUR": 1.0, "GBP": 0.86, "CHF": 0.96, "SEK": 11.2, "DKK": 7.46, "NOK": 11.6, "PLN": 4.27, "CZK": 25.0}


def main() -> None:
    """Write the file beside this script."""
    rng = Random(SEED)
    first, last = FIRST.split(), LAST.split()
    cities, lines = list(CITIES), list(LINES)
    days = sorted(rng.randrange(DAYS) for _ in range(COUNT))
    path = Path(__file__).with_name("orders.csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["order_id", "customer", "city", "line", "amount", "currency", "ordered_on"])
        for number, day in enumerate(days, 1):
            city, currency = rng.choices(cities, list(CITIES.values()))[0]
            line = rng.choices(lines, [share for share, _, _ in LINES.values()])[0]
            _, low, high = LINES[line]
            euros = min(high, low * rng.lognormvariate(0.6, 0.5))  # most baskets are small
            out.writerow(
                [
                    f"ORD-{number:06d}",
                    f"{rng.choice(first)} {rng.choice(last)}",
                    city,
                    line,
                    f"{max(euros, low) * RATE[currency]:.2f}",
                    currency,
                    (FIRST_DAY + timedelta(days=day)).isoformat(),
                ]
            )


if __name__ == "__main__":
    main()
