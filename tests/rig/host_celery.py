"""Celery for hosts that have no network: the packages of the running environment, in a folder.

Only what is Python: hosts have another interpreter than the tests. The folder is a layer to be put
over a host's file system, made once a machine for each set of versions.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.rig.missing import missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.metadata import Distribution

PLACE = Path("opt/celery")
"""In the layer and in the hosts; what to put on PYTHONPATH is `/opt/celery`."""
ROOTS = ("celery", "redis", "packaging")
"""The last is wanted by what kombu adds for Redis."""
# redis-py wants it on Python before 3.11.3, for what later ones have themselves.
SHIMS = {"async_timeout.py": "from asyncio import timeout as timeout\n"}
_COMPILE = 'mount --bind "$1/opt" "$2/opt" && exec chroot "$2" python3 -m compileall -q /opt/celery'
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def celery_layer(base: Path) -> Path:
    """The folder, compiled by the Python of `base`: each worker would take a second for it."""
    packages = list(_closure())
    told = "\n".join(sorted(f"{one.name} {one.version}" for one in packages))
    recipe = hashlib.sha256(f"{base.name}\n{told}\n{SHIMS}".encode()).hexdigest()[:12]
    layer = base.parent / f"celery-{recipe}"
    with (base.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not layer.exists():
            _build(layer, base, packages)
    return layer


def _closure() -> Iterator[Distribution]:
    """What celery needs to talk to Redis, and what those need: all that is installed of it."""
    waiting, seen = list(ROOTS), set[str]()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            package = importlib.metadata.distribution(name)
            yield package
            needed = [one for one in package.requires or () if "extra ==" not in one]
            waiting += [match[0] for one in needed if (match := _NAME.match(one))]


def _build(layer: Path, base: Path, packages: list[Distribution]) -> None:
    unfinished = layer.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for package in packages:
        for file in package.files or ():
            if file.parts[0] == ".." or file.suffix in {".so", ".pyc"}:
                continue
            target = unfinished / PLACE / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), target)
    for name, text in SHIMS.items():
        (unfinished / PLACE / name).write_text(text)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", _COMPILE, "sh", str(unfinished), str(base)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        missing(f"celery for systemd hosts: {done.stdout[-300:]}{done.stderr[-300:]}")
    unfinished.rename(layer)
