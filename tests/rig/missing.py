"""What to do when a part of the rig is not there."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """Skip the test and say why; fail where everything has to be there (CI is set)."""
    if os.environ.get("CI"):
        pytest.fail(f"not there, and CI needs it: {what}")
    pytest.skip(f"not there: {what}")
