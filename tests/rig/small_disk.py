"""A file system of its own that is soon full: needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


PAGE = 4096


class SmallDisk:
    """A mounted file system."""

    def __init__(self, mounted: Path) -> None:
        self._filler = mounted / "filler"

    def fill(self, journal: Path) -> None:
        """Leave no byte of it; nor in the last page of this journal: a line is torn there."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * PAGE):
                pass
        while left := -journal.stat().st_size % PAGE:
            with journal.open("ab", buffering=0) as file:
                file.write(b" " * left)


@contextlib.contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[SmallDisk]:
    """Mount one; its content is gone at the end."""
    place.mkdir(parents=True)
    size = f"size={kilobytes}k,mode=0700"
    mount = ("mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place))
    if os.geteuid() or subprocess.run(mount, check=False, stderr=subprocess.DEVNULL).returncode:
        missing("a tmpfs of its own (root, and the right to mount)")
    try:
        yield SmallDisk(place)
    finally:
        # Lazily: what still has a file open in it loses nothing that anybody wants.
        subprocess.run(("umount", "--lazy", str(place)), check=True)
