"""django-celery-beat with a database of its own: SQLite, and no project around it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tests.rig.missing import missing

if TYPE_CHECKING:
    from pathlib import Path

ARGUMENTS = ("-S", "django_celery_beat.schedulers:DatabaseScheduler")
SETTINGS = "rigdjango"
_MODULE = textwrap.dedent(
    """
    import pathlib
    SECRET_KEY = "rig"
    USE_TZ = True
    INSTALLED_APPS = ["django_celery_beat"]
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(pathlib.Path(__file__).with_name("beat.sqlite3")),
            "OPTIONS": {"timeout": 60},
        }
    }
    """
)
_TABLES = textwrap.dedent(
    """
    import django
    from django.core.management import call_command
    django.setup()
    call_command("migrate", verbosity=0)
    from django_celery_beat.models import IntervalSchedule, PeriodicTask
    second = IntervalSchedule.objects.create(every=1, period=IntervalSchedule.SECONDS)
    PeriodicTask.objects.create(
        name="tick", task="rig.work", args="[0]", queue="periodic", interval=second
    )
    """
)


def django_beat(folder: Path) -> dict[str, str]:
    """The environment of its schedulers. Its database has one entry: `tick` sends `rig.work` to the
    queue `periodic` every second.
    """
    if find_spec("django_celery_beat") is None:
        missing("django-celery-beat: pip install 'celery-ops[dev]'")
    folder.mkdir()
    (folder / f"{SETTINGS}.py").write_text(_MODULE)
    environment = {"DJANGO_SETTINGS_MODULE": SETTINGS, "PYTHONPATH": str(folder)}
    subprocess.run(
        (sys.executable, "-c", _TABLES),
        check=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    return environment
