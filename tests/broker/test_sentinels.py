"""Which of several sentinels is believed, and how what they said is told."""

from __future__ import annotations

import pytest

from celery_ops.broker import sentinels
from celery_ops.broker.sentinels import Told

OLD, NEW = ("10.0.0.1", 6379), ("10.0.0.2", 6379)


def told(*answers: tuple[tuple[str, int] | None, int]) -> list[Told]:
    """Answers of sentinels that are called a, b, c …: (master, epoch)."""
    return [
        Told(name, master, epoch) for name, (master, epoch) in zip("abcde", answers, strict=False)
    ]


@pytest.mark.parametrize(
    ("answers", "master"),
    [
        ([(OLD, 1)], OLD),
        ([(OLD, 1), (OLD, 1), (OLD, 1)], OLD),
        ([(None, -1), (OLD, 1)], OLD),
        ([(OLD, 1), (OLD, 1), (NEW, 2)], NEW),
        ([(NEW, 2), (OLD, 1)], NEW),
        ([(OLD, -1), (NEW, 0)], NEW),
        ([(OLD, 0), (NEW, 0), (NEW, 0)], NEW),
        ([(OLD, 0), (NEW, 0)], None),
        ([(OLD, 3), (NEW, 3), (OLD, 1)], None),
        ([(None, -1), (None, -1)], None),
        ([], None),
    ],
    ids=str,
)
def test_whoever_knows_of_the_latest_fail_over_is_believed(
    answers: list[tuple[tuple[str, int] | None, int]], master: tuple[str, int] | None
) -> None:
    assert sentinels.elected(told(*answers)) == master
    assert sentinels.elected(told(*reversed(answers))) == master


@pytest.mark.parametrize(
    ("answers", "of", "is_enough"),
    [
        ([(OLD, 1)], 1, True),
        ([(OLD, 1)], 2, False),
        ([(OLD, 1), (OLD, 1)], 3, True),
        ([(OLD, 1), (OLD, 1)], 4, False),
        ([(OLD, 1), (NEW, 2)], 3, False),
        ([(OLD, 1), (OLD, 2)], 3, False),
        ([(None, -1), (None, -1)], 3, False),
        ([], 3, False),
    ],
    ids=str,
)
def test_more_than_half_of_them_need_not_wait_for_the_others(
    answers: list[tuple[tuple[str, int] | None, int]], of: int, *, is_enough: bool
) -> None:
    assert sentinels.agreed(told(*answers), of) is is_enough


def test_what_a_sentinel_replies_is_read() -> None:
    state = [
        *(b"name", b"m", b"ip", b"10.0.0.1", b"port", b"6379"),
        *(b"flags", b"s_down,o_down,master,disconnected", b"num-other-sentinels", b"2"),
        *(b"config-epoch", b"7", b"quorum", b"2"),
    ]
    one = sentinels.read("a", [b"10.0.0.2", b"6379"], state)
    assert one == Told("a", NEW, 7, 2, frozenset({"s_down", "o_down"}))
    assert sentinels.read("a", [b"10.0.0.2", b"6379"], None) == Told("a", NEW)


def test_who_says_the_same_is_named_together() -> None:
    down, failing = frozenset({"s_down", "o_down"}), frozenset({"failover_in_progress", "s_down"})
    said = sentinels.says(
        "m",
        [
            Told("b", OLD, 1, flags=down),
            Told("a", OLD, 1, flags=down),
            Told("c", OLD, 1, flags=failing),
            Told("d", NEW, 2),
            Told("f", failed="The sentinel at f does not answer."),
            Told("e", failed="Nothing listens at e."),
        ],
    )
    assert said == (
        "The sentinels of m say: master is 10.0.0.1:6379, a fail-over is under way (c);"
        " master is 10.0.0.1:6379, down as enough of them agree (a, b);"
        " master is 10.0.0.2:6379 (d). Nothing listens at e. The sentinel at f does not answer."
    )
    assert (
        sentinels.says("m", [Told("a", failed="Nothing listens at a.")]) == "Nothing listens at a."
    )
    assert sentinels.says("m", []) == ""


def test_where_all_say_the_same_it_is_told_in_the_same_words_whoever_answered_first() -> None:
    one, other = (
        sentinels.says("m", [Told(name, OLD, 1) for name in names]) for names in ("ab", "ca")
    )
    assert one == other == "The sentinels of m say: master is 10.0.0.1:6379."
