"""`runbook new NAME`: a file to begin with, valid as it is, in the user's own `runbooks/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from celery_ops.cli import context
from celery_ops.cli.choice import Choice
from celery_ops.cli.text import safe_lines
from celery_ops.config.document import shown
from celery_ops.doctor import RULES
from celery_ops.errors import InvalidDocument, UsageError
from celery_ops.runbook.library import Library
from celery_ops.runbook.loader import loads

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = """\
# Check it:        celery-ops runbook check FILE
# See its plan:    celery-ops runbook {name} --plan
# In an editor:    celery-ops runbook schema > runbook.json, and then
# yaml-language-server: $schema=runbook.json
name: {name}
summary: Restart workers, a few at a time.
risk: medium                       # low | medium | high: high asks for the context's name

# Types: workers, count, duration, text, integer, boolean; given as -p KEY=VALUE.
params:
  workers:        {{type: workers,  default: "*", help: "Which workers"}}
  keep_available: {{type: count,    default: 75%, help: "Consumers every queue keeps"}}
  drain_timeout:  {{type: duration, default: 10m, help: "Longest a task may take to finish"}}

preflight:                         # reads only; all must hold before anything is changed
  - check: fleet.unsupervised == 0
    message: "Some workers have no supervisor: a restart would lose them."

steps:                             # from top to bottom, one verb a step
  - confirm: "Restart ${{{{ targets.count }}}} workers?"
  - roll: ${{{{ params.workers }}}}
    canary: 1                      # the first batch is one worker
    batch: 25%
    keep_available: ${{{{ params.keep_available }}}}
    max_failed: 0
    on_fail: ask                   # ask | stop | undo; without a terminal ask means stop
    offline: fail                  # fail | skip those that cannot be reached
    steps:
      - drain: worker
        timeout: ${{{{ params.drain_timeout }}}}
        on_timeout: fail           # fail | defer (when it is free) | proceed (cuts off)
      # - run: [deploy, --version, v2]          # an argv on the worker's host
      #   once_per: host
      #   undo: [deploy, --back]
      - restart: worker
        timeout: 2m
      # - probe: worker                         # the context's probe task ends at it
    verify:                        # what proves that a worker came through
      that: [worker.online, worker.started_at > step.started_at]
      hold: 10s
      timeout: 3m

  # - probe: configured            # the context's probe task ends in each of its queues

finally:                           # however it goes
  - check: fleet.left_drained == 0
  # - notify: [notify-send, "${{{{ params.workers }}}} restarted"]
"""


@click.command("new")
@click.argument("name")
@click.pass_context
def new(ctx: click.Context, name: str) -> None:
    """Write a runbook to begin with into the runbooks/ beside the configuration."""
    directory = context.directory(ctx.ensure_object(Choice))
    if directory is None:
        raise UsageError(
            "there is no configuration, and runbooks are kept beside it",
            fix="Write a celery-ops.yaml first, or name one with --config.",
        )
    path = directory / "runbooks" / f"{name}.yaml"
    text = _text(name)
    hidden = name in Library(None).names()
    if name in Library(path.parent).names() and not hidden:
        raise UsageError(f"there is a runbook {name} already", fix="Choose another name.")
    _write(path, text)
    click.echo(safe_lines(f"{path}"))
    if hidden:
        click.echo(safe_lines(f"It hides the shipped runbook {name}."), err=True)


def _text(name: str) -> str:
    """Raise UsageError for what is no name of a runbook."""
    text = TEMPLATE.format(name=name)
    try:
        read = loads(text, f"{name}.yaml", rules=RULES).name
    except InvalidDocument as error:
        says = error.problems[0].says
        raise UsageError(f"{shown(name)} cannot be a runbook's name: {says}") from error
    if read != name:
        raise UsageError(f"{shown(name)} cannot be a runbook's name: YAML reads {shown(read)}")
    return text


def _write(path: Path, text: str) -> None:
    """Never over what is there."""
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already", fix="It was left as it is.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
