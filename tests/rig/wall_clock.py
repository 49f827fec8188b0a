"""A wall clock that jumps for some processes alone, as if an administrator had set it."""

from __future__ import annotations

from pathlib import Path

from tests.rig.missing import missing

_LIBRARY = "libfaketimeMT.so.1"


class WallClock:
    """What `variables` are given to tells the time with this much added; monotonic clocks go on."""

    def __init__(self, file: Path) -> None:
        found = next(Path("/usr/lib").glob(f"*/faketime/{_LIBRARY}"), None)
        if found is None:
            missing("libfaketime (Debian's package faketime)")
        self._file = file
        self.jump("+0s")
        self.variables = {
            "LD_PRELOAD": str(found),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, by: str) -> None:
        """Set it: `+1h` or `-1h` from the true time."""
        self._file.write_text(f"{by}\n")
