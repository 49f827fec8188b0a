"""The ways in which hosts keep releases: builders of commands, and readers of what they print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_ops.config.contexts import CommandRelease, ImageRelease, SymlinkRelease
from celery_ops.hosts.releases.commands import Commands
from celery_ops.hosts.releases.images import Images
from celery_ops.hosts.releases.symlink import Symlink

if TYPE_CHECKING:
    from celery_ops.config.contexts import Context
    from celery_ops.hosts.docker import Docker
    from celery_ops.ports import ReleaseLayout


def layout_of(context: Context, host: str, docker: Docker) -> ReleaseLayout | None:
    """That of a context's host; None where none is configured."""
    match context.release:
        case SymlinkRelease() as release:
            return Symlink(release, app=context.app or "")
        case CommandRelease() as release:
            return Commands(release)
        case ImageRelease() as release:
            here = tuple(one for one in context.services if one.host == host)
            files = {one: context.compose_files.get(one, ()) for one in here}
            return Images(release, host, docker, files, app=context.app or "")
        case None:
            return None


def images_of(context: Context) -> ImageRelease | None:
    """What a start of a container brings in."""
    return context.release if isinstance(context.release, ImageRelease) else None
