"""/proc/PID/cgroup: which unit a process belongs to, in all the ways a kernel writes it."""

from __future__ import annotations

import pytest

from celery_ops.hosts.cgroups import Home, Placed, placed

ID = "a" * 64
V2, V1 = "0::/init.scope", "1:name=systemd:/init.scope"
HYBRID = "12:memory:/user.slice\n1:name=systemd:{}\n0::{}"
UNIT = Placed(Home.UNIT, "celery@1.service")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("0::/system.slice/celery@1.service", UNIT),
        ("0::/system.slice/system-celery.slice/celery@1.service", UNIT),
        ("0::/work.slice/work-bulk.slice/celery@1.service/pool", UNIT),
        ("3:cpu,cpuacct:/\n1:name=systemd:/system.slice/celery@1.service", UNIT),
        (HYBRID.format(*["/system.slice/celery@1.service"] * 2), UNIT),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/celery.service",
            Placed(Home.USER_UNIT, "celery.service", "1000"),
        ),
        (
            "0::/user.slice/user-1000.slice/session-3.scope",
            Placed(Home.SESSION, "session-3.scope"),
        ),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/tmux-spawn-1.scope",
            Placed(Home.SESSION, "tmux-spawn-1.scope", "1000"),
        ),
        (f"0::/system.slice/docker-{ID}.scope", Placed(Home.CONTAINER, ID[:12])),
        (f"4:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}", Placed(Home.CONTAINER, ID[:12])),
        (
            f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope",
            Placed(Home.CONTAINER, ID[:12]),
        ),
        (
            f"0::/machine.slice/libpod-{ID}.scope/container",
            Placed(Home.CONTAINER, ID[:12]),
        ),
        (f"0::/system.slice/docker.service/docker/{ID}", Placed(Home.CONTAINER, ID[:12])),
        ("0::/lxc/web9/system.slice/celery.service", Placed(Home.CONTAINER, "celery.service")),
        (
            "0::/machine.slice/systemd-nspawn@web9.service/payload/system.slice/celery.service",
            Placed(Home.CONTAINER, "web9"),
        ),
        (r"0::/machine.slice/machine-web\x2d9.scope/x", Placed(Home.CONTAINER, "web-9")),
        ("0::/", Placed(Home.NOTHING)),
        ("", Placed(Home.NOTHING)),
        ("nonsense", Placed(Home.NOTHING)),
    ],
)
def test_a_process_is_placed(groups: str, expected: Placed) -> None:
    for root in (V2, V1, ""):
        assert placed(groups, root) == expected


def test_what_is_above_the_hosts_own_systemd_is_not_seen() -> None:
    """In a container without a cgroup namespace, paths begin far above."""
    above = f"0::/docker/{ID}"
    assert placed(f"{above}/system.slice/celery@1.service", f"{above}/init.scope") == UNIT
