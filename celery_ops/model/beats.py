"""Schedulers: what of them is seen on hosts, and what that makes of them."""

from __future__ import annotations

from dataclasses import dataclass

from celery_ops.model.services import Service


@dataclass(frozen=True, slots=True)
class SeenProcess:
    """A main process of Celery's on a host, as its command line tells.

    `line` is its pid, its parent's, and so on. `is_beat`: a scheduler; `has_beat`: a worker, of
    that `node`, that is one too (`-B`). `inner_pid` is its pid in its own container. `scheduler` is
    the class it was told to use (`-S`) and `app` its application; None: that is not told there.
    """

    line: tuple[int, ...]
    is_beat: bool = False
    has_beat: bool = False
    node: str | None = None
    app: str | None = None
    scheduler: str | None = None
    inner_pid: int | None = None
    supervisord: int | None = None
    """The pid of the one that it descends from."""

    @property
    def pid(self) -> int:
        return self.line[0]


@dataclass(frozen=True, slots=True)
class SeenProcesses:
    """Those of one host. `hostname` is what it calls itself; `unseen` is why there may be more."""

    hostname: str
    processes: tuple[SeenProcess, ...]
    unseen: str = ""


@dataclass(frozen=True, slots=True)
class Beat:
    """A scheduler as its supervisor, its process, or its own answer to ping shows it.

    Without a `service` nobody configured it. `worker`: it is a part of that worker (`-B`), and
    begins and ends with it. `origin` is how its messages name their sender, as far as that is
    known. `waits_for_lock`: RedBeat's, of which one sends and the others stand by.
    """

    name: str
    service: Service | None
    running: bool | None
    host: str | None = None
    pid: int | None = None
    worker: str | None = None
    origin: str | None = None
    waits_for_lock: bool = False
    doubtful: bool = False
    """Nobody configured it, and it may be another deployment's: it runs in a container, or below a
    supervisord that runs nothing of ours.
    """
