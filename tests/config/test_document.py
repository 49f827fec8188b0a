"""Strict YAML: positions, no guesses, no crash."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from celery_ops.config.document import (
    MAX_BYTES,
    Items,
    Node,
    Reader,
    Scalar,
    Table,
    decoded,
    did_you_mean,
    parse,
)
from celery_ops.errors import InvalidDocument, Problem


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidDocument) as caught:
        parse(text, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


def refusals(text: str) -> tuple[Problem, ...]:
    try:
        parse(text, "f")
    except InvalidDocument as error:
        return error.problems
    return ()


def plain(node: Node) -> object:
    match node:
        case Scalar(text):
            return text
        case Items(nodes):
            return [plain(one) for one in nodes]
        case Table(entries):
            return {entry.key.text: plain(entry.node) for entry in entries}


def test_everything_has_the_position_it_stands_at() -> None:
    root = parse("a: 1\nb:\n  - x\n  - {c: y}\n", "f.yaml")
    assert isinstance(root, Table)
    items = root.get("b")
    assert isinstance(items, Items)
    assert [str(node.place) for node in (root, items, *items.nodes)] == [
        "f.yaml:1:1",
        "f.yaml:3:3",
        "f.yaml:3:5",
        "f.yaml:4:5",
    ]


def test_an_empty_document_is_an_empty_table() -> None:
    assert plain(parse("", "f")) == plain(parse("# nothing\n", "f")) == {}


def test_all_duplicate_keys_are_told_at_once() -> None:
    assert problems("a: 1\nb: 2\na: 3\nb: 4\n") == [
        "f.yaml:3:1: duplicate key 'a' (first on line 1)",
        "f.yaml:4:1: duplicate key 'b' (first on line 2)",
    ]


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("a: &x 1\nb: *x\n", "1:4", "anchors"),
        ("a: *x\n", "1:4", "aliases"),
        ("a: !!python/object:os.system x\n", "1:4", "tags"),
        ("a: !x [1]\n", "1:4", "tags"),
        ("a: !!set {b}\n", "1:4", "tags"),
        ("a: 1\n---\nb: 2\n", "2:1", "another document"),
        ("? [a]\n: 1\n", "1:3", "a list cannot be a key"),
        ("a: {b: ${X}}\n", "1:9", "quote ${…}"),
        ("a:\n\t- b\n", "2:1", "cannot start any token"),
        ("a: 1\nb: \x07\n", "2:4", "U+0007"),
        ("[" * 51, "1:51", "50 levels"),
        ("x" * (MAX_BYTES + 1), "1:1", "larger than"),
    ],
)
def test_what_is_refused_is_refused_at_its_place(text: str, where: str, says: str) -> None:
    [problem] = problems(text)
    assert problem.startswith(f"f.yaml:{where}: ")
    assert says in problem


def test_what_is_not_utf8_has_a_place() -> None:
    with pytest.raises(InvalidDocument, match=r"f:2:4: not UTF-8"):
        decoded(b"a: 1\nb: \xff\n", "f")


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert decoded(b"\xef\xbb\xbfa: 1", "f") == "a: 1"


def test_words_of_yaml_1_1_are_text_and_no_booleans() -> None:
    root = parse("a: yes\nb: true\n", "f")
    assert isinstance(root, Table)
    reader = Reader()
    values = [reader.boolean(entry.node, entry.key.text) for entry in root.entries]
    assert values == [None, True]
    assert [problem.says for problem in reader.problems] == ["a must be true or false, not 'yes'"]


def test_a_reader_tells_all_problems_in_the_order_of_the_file() -> None:
    root = parse("tpyo: 1\nnumber: x\nx-mine: 1\n", "f")
    reader = Reader()
    entries = reader.table(root, "it", ["typo", "number", "name"], ["name"])
    reader.integer(entries["number"], "number")
    with pytest.raises(InvalidDocument) as caught:
        reader.finish()
    assert [str(problem) for problem in caught.value.problems] == [
        "f:1:1: unknown key 'tpyo' in it (did you mean typo?)",
        "f:1:1: it needs the key 'name'",
        "f:2:9: number must be a whole number of at least 0, not 'x'",
    ]


def test_what_a_problem_quotes_is_short_and_printable() -> None:
    root = parse(f'"\\e[31m{"k" * 900}": 1\n', "f")
    reader = Reader()
    reader.table(root, "it", ["a"])
    [problem] = reader.problems
    assert problem.says.isprintable()
    assert len(problem.says) < 120


YAML_LIKE = st.lists(
    st.sampled_from(
        [
            *"[]{}:,-?|>&*!%@`'\"#~ \n\t\\aé\u2028\ufeff\x00",
            "  ",
            "- ",
            ": ",
            "\n  ",
            "${",
            "}",
            "---",
        ]
    ),
    max_size=60,
).map("".join)


@given(st.one_of(st.text(max_size=200), YAML_LIKE))
@example("\ud800")
@example("a: \x85b")
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    found = refusals(text)
    lines = len(text.splitlines()) + 2
    assert all(1 <= problem.line <= lines for problem in found)
    assert all(1 <= problem.column <= len(text) + 2 and problem.says for problem in found)


VALUES = st.recursive(
    st.text(st.characters(exclude_categories=["C"]), max_size=20),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("abc", max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abc", max_size=3), VALUES, min_size=1, max_size=4), st.booleans())
def test_what_yaml_writes_is_read_as_it_was_meant(value: dict[str, object], flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True, sort_keys=False)
    assert plain(parse(text, "f")) == value


def test_nothing_is_suggested_that_cannot_be_printed() -> None:
    assert did_you_mean("worker", ["\u07b2orker"]) == ""
    assert did_you_mean("worker", ["\u07b2orker", "worked"]) == " (did you mean worked?)"
