"""What a supervisord configuration says of its programs beyond what XML-RPC tells.

Reads the lines the relay keeps. What cannot be told for sure (a value with a variable in it, two
programs that could be meant) is unknown.
"""

from __future__ import annotations

import configparser
import fnmatch
import re
from dataclasses import dataclass

_EXPANSION = re.compile(r"%\((\w+)\)(\d*)[ds]|%%")
_TRUE = {"true", "yes", "on", "1", "t", "y"}
_FALSE = {"false", "no", "off", "0", "f", "n"}
_SECTIONS = ("program:", "eventlistener:", "fcgi-program:")


@dataclass(frozen=True, slots=True)
class Program:
    """`stop_as_group`: the stop signal goes to all of its process group.

    `restarts`: it is started again even after a clean end.
    """

    stop_as_group: bool | None = None
    restarts: bool | None = None


class Programs:
    """The programs of one supervisord, by their groups."""

    def __init__(self, lines: str) -> None:
        # As supervisord's own UnhosedConfigParser.
        self._parser = configparser.RawConfigParser(
            inline_comment_prefixes=(";", "#"), strict=False, allow_no_value=True
        )
        try:
            self._parser.read_string(lines)
        except configparser.Error:
            self._parser.clear()

    def find(self, group: str, process: str) -> Program:
        """What is known of a process; all None if it is not clear which program it belongs to."""
        sections = [
            section
            for section in self._parser.sections()
            if section.startswith(_SECTIONS) and self._makes(section, group, process)
        ]
        if len(sections) != 1:
            return Program()
        section = self._parser[sections[0]]
        return Program(
            stop_as_group=_flag(section.get("stopasgroup") or "false"),
            # supervisord's default is `unexpected`: only after an exit code that is not expected.
            restarts=_flag((section.get("autorestart") or "unexpected"), {"unexpected"}),
        )

    def _makes(self, section: str, group: str, process: str) -> bool:
        program = section.partition(":")[2].strip()
        members = self._members(group)
        if program != group if members is None else program not in members:
            return False
        pattern = self._parser[section].get("process_name") or "%(program_name)s"
        return fnmatch.fnmatchcase(process, _glob(pattern, program=program, group=group))

    def _members(self, group: str) -> list[str] | None:
        """The programs of a heterogeneous group; None if it is no such group."""
        section = f"group:{group}"
        if not self._parser.has_section(section):
            return None
        programs = self._parser[section].get("programs") or ""
        return [name.strip() for name in programs.replace("\n", ",").split(",")]


def _glob(pattern: str, *, program: str, group: str) -> str:
    known = {"program_name": _literal(program), "group_name": _literal(group)}
    text, end = "", 0
    for match in _EXPANSION.finditer(pattern):
        text += _literal(pattern[end : match.start()]) + known.get(match[1] or "", "*")
        end = match.end()
    return text + _literal(pattern[end:])


def _literal(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


def _flag(text: str, also_false: set[str] | frozenset[str] = frozenset()) -> bool | None:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    return False if word in _FALSE | also_false else None
