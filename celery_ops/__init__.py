"""celery-ops: shows a Celery fleet as it is, and changes it without losing a task."""

__version__ = "0.1.0"
