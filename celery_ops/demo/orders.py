"""What the demo's producer asks for: a small shop's day, the same each time.

Durations are spread evenly instead of drawn at random, so two demos can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_GOLDEN = 0.6180339887
"""Multiples of it, modulo 1, cover the range evenly however many are taken."""

_CYCLE = (
    *("order", "mail", "order", "report", "order", "payment", "mail", "order", "order", "mail"),
    *("order", "payment", "order", "mail", "report", "order", "mail", "order", "payment", "order"),
)
_FAILURES = (1, 0, 2, 1, 3)
"""How often the payments fail, in turn. Two retries are allowed: three times is for good."""

MAX_COUNTDOWN = 8.0


@dataclass(frozen=True, slots=True)
class Order:
    """A task to publish; it takes `seconds`, after waiting `countdown` seconds if any."""

    task: str
    number: int
    seconds: float
    countdown: float | None = None
    arguments: dict[str, int] = field(default_factory=dict)


def order(number: int) -> Order:
    """The order with that number, counted from 1."""
    share = number * _GOLDEN % 1
    turn = number // len(_CYCLE)
    match _CYCLE[number % len(_CYCLE)]:
        case "mail":
            countdown = round(2 + share * (MAX_COUNTDOWN - 2), 1) if turn % 3 == 0 else None
            return Order("shop.send_mail", number, _between(0.1, 0.8, share), countdown)
        case "report":
            return Order("shop.render_report", number, _between(1.0, 3.0, share))
        case "payment":
            failures = _FAILURES[(number + turn) % len(_FAILURES)]
            seconds = _between(0.1, 0.8, share)
            return Order("shop.charge_payment", number, seconds, None, {"failures": failures})
        case _:
            return Order("shop.place_order", number, _between(0.1, 1.5, share))


def _between(least: float, most: float, share: float) -> float:
    return round(least + (most - least) * share, 2)
