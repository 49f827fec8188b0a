"""When a round ends, on a clock that the test turns."""

from __future__ import annotations

from datetime import UTC, datetime

from celery_ops.broker.rounds import Memory, Next, Round
from celery_ops.ports import Reply

AT = datetime(2026, 11, 20, tzinfo=UTC)


class Play:
    """A round, and the hand that deals replies to it."""

    def __init__(
        self,
        *methods: str,
        listeners: int | None,
        memory: Memory | None = None,
        to: tuple[str, ...] | None = None,
        known: tuple[str, ...] = (),
        timeout: float = 10.0,
        at: float = 100.0,
    ) -> None:
        self.now = at
        self.round = Round(
            {method: method for method in methods},
            targets=to,
            known=known,
            memory=memory or Memory(),
            started=self.now,
            timeout=timeout,
            is_counted=listeners is not None,
        )
        self.round.published(dict.fromkeys(methods, listeners), self.now)

    def reply(self, method: str, *nodes: str) -> Next:
        for node in nodes:
            self.round.add(method, Reply(node, AT, value=[]), self.now)
        return self.next()

    def wait(self, seconds: float) -> Next:
        self.now += seconds
        return self.next()

    def next(self) -> Next:
        return self.round.next(self.now)

    def look_closer(self, *bound: str, listeners: int | None = None) -> Next:
        """Hand in the bound names; `listeners` of the roll call, if one shall be sent."""
        self.round.look_closer(bound)
        assert self.round.wants_roll_call is (listeners is not None)
        if listeners is not None:
            self.round.call_roll("roll")
            self.round.published({"roll": listeners}, self.now)
        return self.next()


def test_a_round_ends_with_the_last_reply() -> None:
    play = Play("stats", "active", listeners=2)
    assert play.reply("stats", "a@x", "b@x") is Next.REPLIES
    assert play.reply("active", "a@x") is Next.REPLIES
    assert play.reply("active", "b@x") is Next.OVER
    assert play.round.complete
    assert play.round.expected == 2


def test_nobody_listening_ends_a_round_at_once() -> None:
    play = Play("stats", listeners=0)
    assert play.next() is Next.OVER
    assert play.round.complete
    assert play.round.expected == 0


def test_a_listener_without_a_name_is_not_waited_for() -> None:
    play = Play("stats", listeners=3)
    assert play.reply("stats", "a@x", "b@x") is Next.REPLIES
    assert play.wait(0.1) is Next.NAMES
    assert play.look_closer("a@x", "b@x") is Next.OVER
    assert play.round.complete
    assert play.round.expected == 2


def test_what_was_found_out_ends_the_next_round_with_its_last_reply() -> None:
    memory = Memory()
    first = Play("stats", listeners=3, memory=memory)
    first.reply("stats", "a@x", "b@x")
    first.wait(0.1)
    assert first.look_closer("a@x", "b@x") is Next.OVER

    second = Play("stats", listeners=3, memory=memory)
    assert second.reply("stats", "a@x") is Next.REPLIES
    assert second.reply("stats", "b@x") is Next.OVER
    assert second.round.complete


def test_another_number_of_listeners_makes_what_was_found_out_void() -> None:
    memory = Memory()
    first = Play("stats", listeners=2, memory=memory)
    first.reply("stats", "a@x")
    first.wait(0.1)
    assert first.look_closer("a@x") is Next.OVER

    second = Play("stats", listeners=3, memory=memory)
    assert second.reply("stats", "a@x", "b@x") is Next.REPLIES


def test_a_late_reply_makes_what_was_found_out_void() -> None:
    memory = Memory()
    first = Play("stats", listeners=2, memory=memory)
    first.reply("stats", "a@x")
    first.wait(0.1)
    assert first.look_closer("a@x") is Next.OVER
    memory.heard_late("b@x")

    second = Play("stats", listeners=2, memory=memory)
    assert second.reply("stats", "a@x") is Next.REPLIES


def test_what_was_found_out_is_checked_again_after_a_while() -> None:
    memory = Memory()
    first = Play("stats", listeners=2, memory=memory)
    first.reply("stats", "a@x")
    first.wait(0.1)
    assert first.look_closer("a@x") is Next.OVER

    soon = Play("stats", listeners=2, memory=memory, at=110.0)
    assert soon.reply("stats", "a@x") is Next.OVER
    later = Play("stats", listeners=2, memory=memory, at=200.0)
    assert later.reply("stats", "a@x") is Next.REPLIES


def test_a_silent_name_is_waited_for_until_the_deadline() -> None:
    play = Play("stats", listeners=2, timeout=1.0)
    play.reply("stats", "a@x")
    assert play.wait(0.1) is Next.NAMES
    assert play.look_closer("a@x", "frozen@x", listeners=2) is Next.REPLIES
    assert play.reply("roll", "a@x") is Next.REPLIES
    assert play.wait(0.5) is Next.REPLIES
    assert play.wait(0.5) is Next.OVER
    assert not play.round.complete
    assert play.round.expected == 2


def test_a_name_that_was_silent_for_a_whole_round_is_not_waited_for_again() -> None:
    memory = Memory()
    first = Play("stats", listeners=2, memory=memory, timeout=1.0)
    first.reply("stats", "a@x")
    first.wait(0.1)
    first.look_closer("a@x", "frozen@x", listeners=2)
    first.reply("roll", "a@x")
    assert first.wait(1.0) is Next.OVER

    second = Play("stats", listeners=2, memory=memory)
    second.reply("stats", "a@x")
    assert second.wait(0.1) is Next.NAMES
    assert second.look_closer("a@x", "frozen@x") is Next.OVER
    assert not second.round.complete, "somebody listens and did not answer"


def test_a_known_name_is_waited_for_however_long_it_was_silent() -> None:
    memory = Memory()
    memory.silent.add("frozen@x")
    play = Play("stats", listeners=2, memory=memory, known=("frozen@x", "a@x"))
    play.reply("stats", "a@x")
    play.wait(0.1)
    assert play.look_closer("a@x", "frozen@x", listeners=2) is Next.REPLIES
    play.reply("roll", "a@x")
    assert play.wait(1.0) is Next.REPLIES


def test_a_silent_name_that_is_heard_again_is_waited_for_again() -> None:
    memory = Memory()
    memory.silent.add("b@x")
    play = Play("stats", "active", listeners=2, memory=memory)
    play.reply("stats", "a@x", "b@x")
    play.reply("active", "a@x")
    play.wait(0.1)
    assert play.look_closer("a@x", "b@x", listeners=2) is Next.REPLIES


def test_a_beat_that_answers_nothing_but_ping_leaves_the_round_complete() -> None:
    play = Play("stats", "ping", listeners=3)
    play.reply("stats", "a@x", "b@x")
    assert play.reply("ping", "a@x", "b@x", "celerybeat@x") is Next.OVER
    assert play.round.complete


def test_a_worker_that_pongs_but_cannot_tell_what_it_reserved_is_not_waited_for() -> None:
    play = Play("stats", "reserved", listeners=2)
    play.reply("stats", "a@x", "b@x")
    play.reply("reserved", "a@x")
    assert play.wait(0.1) is Next.NAMES
    assert play.look_closer("a@x", "b@x", listeners=2) is Next.REPLIES
    assert play.reply("roll", "a@x") is Next.REPLIES
    assert play.reply("roll", "b@x") is Next.OVER
    assert not play.round.complete


def test_a_ping_that_other_questions_follow_is_not_their_roll_call() -> None:
    play = Play("stats", "ping", "reserved", listeners=2)
    play.reply("stats", "a@x", "b@x")
    assert play.reply("ping", "a@x", "b@x") is Next.REPLIES
    play.reply("reserved", "a@x")
    assert play.wait(0.1) is Next.NAMES
    assert play.look_closer("a@x", "b@x", listeners=2) is Next.REPLIES
    assert play.reply("roll", "a@x", "b@x") is Next.OVER
    assert not play.round.complete


def test_bindings_of_the_dead_are_not_waited_for_when_every_listener_ponged() -> None:
    play = Play("stats", listeners=2)
    play.reply("stats", "a@x")
    play.wait(0.1)
    assert play.look_closer("a@x", "dead@x", "celerybeat@x", listeners=2) is Next.REPLIES
    assert play.reply("roll", "a@x", "celerybeat@x") is Next.OVER
    assert play.round.complete


def test_a_steady_stream_of_replies_is_not_taken_for_quiet() -> None:
    play = Play("stats", listeners=1000)
    for number in range(500):
        play.now += 0.001
        assert play.reply("stats", f"w{number}@x") is Next.REPLIES
    assert play.wait(0.2) is Next.REPLIES
    assert play.wait(0.1) is Next.NAMES


def test_a_directed_round_goes_on_listening_for_a_second_process_of_that_name() -> None:
    play = Play("stats", listeners=5, to=("a@x",))
    play.now += 0.004
    assert play.reply("stats", "a@x") is Next.REPLIES
    assert play.reply("stats", "a@x") is Next.REPLIES
    assert play.wait(0.05) is Next.OVER
    assert play.round.complete
    assert len(play.round.replies["stats"]) == 2
    assert play.round.expected == 1


def test_a_directed_round_ends_at_once_when_every_listener_answered() -> None:
    play = Play("stats", listeners=1, to=("a@x",))
    assert play.reply("stats", "a@x") is Next.OVER
    assert play.round.complete


def test_a_directed_round_ends_at_once_when_nobody_listens() -> None:
    play = Play("stats", listeners=0, to=("a@x",))
    assert play.next() is Next.OVER
    assert not play.round.complete


def test_a_directed_round_ends_when_its_target_pongs_without_an_answer() -> None:
    play = Play("reserved", listeners=5, to=("a@x",))
    assert play.wait(0.1) is Next.NAMES
    assert play.look_closer(listeners=5) is Next.REPLIES
    play.reply("roll", "a@x")
    assert play.wait(0.1) is Next.OVER
    assert not play.round.complete


def test_the_deadline_ends_every_round() -> None:
    for to in (None, ("a@x",)):
        play = Play("stats", listeners=2, to=to, timeout=0.01)
        assert play.wait(0.01) is Next.OVER
        assert not play.round.complete


def test_a_round_says_when_to_look_again() -> None:
    play = Play("stats", listeners=2)
    play.reply("stats", "a@x")
    assert play.now < play.round.look_again_at() < play.now + 0.1
    play.wait(0.1)
    play.look_closer("a@x", "frozen@x", listeners=2)
    assert play.round.look_again_at() == 110.0


def test_where_nobody_counts_and_nobody_is_known_a_silence_ends_a_round() -> None:
    play = Play("stats", "active", listeners=None)
    assert play.reply("stats", "a@x", "b@x") is Next.REPLIES
    assert play.reply("active", "a@x", "b@x") is Next.REPLIES
    assert play.wait(0.25) is Next.REPLIES
    assert play.wait(0.1) is Next.NAMES
    assert play.look_closer() is Next.OVER
    assert play.round.complete
    assert play.round.expected is None


def test_where_nobody_counts_the_first_reply_is_waited_for_until_the_deadline() -> None:
    play = Play("stats", listeners=None, timeout=1.0)
    assert play.wait(0.9) is Next.REPLIES
    assert play.round.look_again_at() == play.now + 0.1
    assert play.wait(0.2) is Next.OVER
    assert not play.round.complete


def test_where_nobody_counts_those_who_are_known_end_a_round() -> None:
    play = Play("stats", listeners=None, known=("a@x", "b@x"))
    assert play.reply("stats", "a@x", "b@x") is Next.REPLIES
    assert play.wait(0.04) is Next.NAMES
    assert play.look_closer() is Next.OVER
    assert play.round.complete


def test_where_nobody_counts_a_known_name_that_is_silent_is_waited_for() -> None:
    play = Play("stats", listeners=None, known=("a@x", "frozen@x"), timeout=1.0)
    play.reply("stats", "a@x")
    assert play.wait(0.1) is Next.NAMES
    play.round.look_closer(())
    assert play.round.wants_roll_call
    play.round.call_roll("roll")
    play.round.published({"roll": None}, play.now)
    assert play.reply("roll", "a@x") is Next.REPLIES
    assert play.wait(0.5) is Next.REPLIES
    assert play.wait(0.5) is Next.OVER
    assert not play.round.complete
