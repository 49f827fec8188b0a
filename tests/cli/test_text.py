"""Tables of plain text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from celery_ops.cli.text import Column, cells, cut, safe_lines, table

COLUMNS = (Column("name", gives=True), Column("ready", right=True), Column("queues", gives=True))


def test_columns_are_aligned() -> None:
    assert table(COLUMNS, [("a", "1", "x"), ("bbb", "22", "y")], 80) == [
        "NAME  READY  QUEUES",
        "a         1  x",
        "bbb      22  y",
    ]


def test_a_narrow_terminal_squeezes_the_widest_column_first() -> None:
    lines = table(COLUMNS, [("n" * 60, "1", "q" * 12)], 50)
    assert all(cells(line) <= 50 for line in lines)
    assert "q" * 12 in lines[1]
    assert "n…" in lines[1]


def test_a_narrow_terminal_leaves_out_the_optional_columns_last_first() -> None:
    columns = (Column("name", gives=True), Column("pool", optional=True), Column("service"))
    optional = (*columns, Column("more", optional=True))
    row = ("n" * 20, "prefork", "s" * 20, "m" * 20)
    assert table(optional, [row], 80)[0].split() == ["NAME", "POOL", "SERVICE", "MORE"]
    assert table(optional, [row], 60)[0].split() == ["NAME", "POOL", "SERVICE"]
    assert table(optional, [row], 45)[0].split() == ["NAME", "SERVICE"]
    assert "n" * 20 in table(optional, [row], 45)[1]


def test_wide_characters_take_two_columns() -> None:
    assert cells("日本") == 4
    assert cut("日本語", 5) == "日本…"
    assert table((Column("a"), Column("b")), [("日本", "x"), ("abcd", "y")], 80)[1:] == [
        "日本  x",
        "abcd  y",
    ]


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=5), st.integers(40, 200))
def test_no_cell_can_break_out_of_its_line(rows: list[tuple[str, str, str]], width: int) -> None:
    lines = table(COLUMNS, rows, width)
    assert len(lines) == len(rows) + 1
    assert all(line.isprintable() or "\u00a0" in line or not line.isascii() for line in lines)
    assert not any(char in line for line in lines for char in "\x1b\r\n\x07\u202e")


def test_a_name_of_ten_thousand_characters_fits_the_terminal() -> None:
    lines = table(COLUMNS, [("x" * 10_000, "1", "q")], 80)
    assert max(cells(line) for line in lines) <= 80


def test_only_line_ends_survive_in_what_is_said() -> None:
    said = safe_lines("one\ntwo\x1b[2J\rthree")
    assert said.count("\n") == 1
    assert "\x1b" not in said
    assert "\r" not in said
