"""Which commands are known to take workers away."""

from __future__ import annotations

import shlex

import pytest

from celery_ops.runbook.dangers import danger


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("systemctl restart celery@1", "systemctl restart"),
        ("systemctl --user -q stop celery@1", "systemctl stop"),
        ("systemctl disable --now celery@1", "systemctl --now"),
        ("/usr/bin/sudo -n /bin/systemctl kill x", "systemctl kill"),
        ("sudo -u root systemctl stop x", "systemctl stop"),
        (
            "env LANG=C timeout -k 5 30 supervisorctl -c /etc/s.conf restart all",
            "supervisorctl restart",
        ),
        ("nice -n 10 pkill -f celery", "pkill"),
        ("sudo -u root env A=b nohup kill 1", "kill"),
        ("sh -c 'pidof celery | xargs -n 1 kill'", "kill"),
        ("kill -TERM 4711", "kill"),
        ("service celeryd stop", "service stop"),
        ("docker compose -f x.yml down", "docker down"),
        ("docker stop web_worker_1", "docker stop"),
        ("kubectl rollout restart deploy/worker", "kubectl restart"),
        ("celery -A proj control -d a@h shutdown", "celery control shutdown"),
        ("/srv/venv/bin/celery -A p control cancel_consumer q", "celery control cancel_consumer"),
        ("python3.11 -m celery multi stopwait w1", "celery multi stopwait"),
        ("sh -c 'cd /srv && exec systemctl stop x'", "systemctl stop"),
        ("sudo bash -lc \"echo 'a; b' && kill $(cat x.pid)\"", "kill"),
    ],
)
def test_a_command_that_takes_workers_away_is_recognised(line: str, found: str) -> None:
    assert danger(shlex.split(line)) == found


@pytest.mark.parametrize(
    "line",
    [
        "systemctl status celery@1",
        "systemctl daemon-reload",
        "supervisorctl status",
        "docker ps",
        "kubectl rollout status deploy/worker",
        "celery -A proj inspect active",
        "celery -A proj control rate_limit a 1/s",
        "echo kill",
        "sh -c 'echo stop'",
        "sudo -u deploy git pull",
        "",
        "sudo",
        "sudo -n echo kill",
    ],
)
def test_a_harmless_command_is_not(line: str) -> None:
    assert danger(shlex.split(line)) is None
