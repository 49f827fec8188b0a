"""Real servers and processes for the tests, each in its own directory and on its own free port."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def free_port(address: str = "") -> int:
    """Free at every address of this machine: some servers listen at all of them."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], bool], *, what: str, timeout: float = 30.0) -> None:
    """Poll a real part until it is there; raise TimeoutError, naming it.

    A look may be a whole command: the pause after it is as long as it took, or polling would take
    the processor from what is waited for.
    """
    deadline = time.monotonic() + timeout
    looked = time.monotonic()
    while not condition():
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(max(0.02, now - looked))
        looked = time.monotonic()


async def eventually(
    condition: Callable[[], Awaitable[bool]], what: str, *, timeout: float = 60.0
) -> None:
    """As `wait_until`, for what is asked by awaiting it."""
    try:
        async with asyncio.timeout(timeout):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise TimeoutError(f"{what}: not within {timeout:g} s") from None


def end(process: subprocess.Popen[bytes], *, patience: float = 10.0) -> None:
    """Stop a process that this rig started, frozen ones too."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
