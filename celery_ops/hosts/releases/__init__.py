"""The ways in which hosts keep releases: builders of commands, and readers of what they print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.contexts import CommandRelease, SymlinkRelease
from celery_ops.hosts.releases.commands import Commands
from celery_ops.hosts.releases.symlink import Symlink

if TYPE_CHECKING:
    from celery_ops.config.contexts import Context
    from celery_ops.ports import ReleaseLayout


def layout_of(context: Context) -> ReleaseLayout | None:
    """That of a context; None where none is configured, or this version cannot read it."""
    match context.release:
        case SymlinkRelease() as release:
            return Symlink(release, app=context.app or "")
        case CommandRelease() as release:
            return Commands(release)
        case _:
            return None
