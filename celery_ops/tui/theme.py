"""The two looks, dark and light; and the terminal's own colours where it has only sixteen."""

from __future__ import annotations

from textual.theme import BUILTIN_THEMES, Theme

DARK = Theme(
    name="ops-dark",
    primary="#5fa8d3",
    secondary="#7f9fb5",
    accent="#5fa8d3",
    warning="#e0a84e",
    error="#e5646a",
    success="#6cbf84",
    foreground="#d5dae0",
    background="#14181d",
    surface="#181d23",
    panel="#222932",
    dark=True,
    variables={"dim": "#8b97a3", "cursor-row": "#2b4257", "marked-row": "#1f2c39"},
)
LIGHT = Theme(
    name="ops-light",
    primary="#1f6f9f",
    secondary="#4f6b7d",
    accent="#1f6f9f",
    warning="#96600b",
    error="#b3262d",
    success="#1f7a41",
    foreground="#22282f",
    background="#fbfbf9",
    surface="#f4f4f1",
    panel="#e6e7e3",
    dark=False,
    variables={"dim": "#6a737c", "cursor-row": "#c3dcec", "marked-row": "#e3edf2"},
)
SIXTEEN = Theme(
    name="ops-ansi",
    ansi=True,
    primary="ansi_blue",
    secondary="ansi_cyan",
    warning="ansi_yellow",
    error="ansi_red",
    success="ansi_green",
    accent="ansi_cyan",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    dark=True,
    variables={
        **BUILTIN_THEMES["ansi-dark"].variables,
        "dim": "ansi_default",
        "cursor-row": "ansi_blue",
        "marked-row": "ansi_default",
    },
)
THEMES = (DARK, LIGHT, SIXTEEN)


def first_theme(*, colors: str | None, no_color: bool, colorfgbg: str) -> Theme:
    """The look to begin with.

    `colors` is Rich's name of what the terminal can do; `colorfgbg` the variable COLORFGBG, which
    some terminals set: its last number is the background, 7 and 15 are light.
    """
    if no_color or colors in {None, "standard"}:
        return SIXTEEN
    return LIGHT if colorfgbg.rpartition(";")[2] in {"7", "15"} else DARK
