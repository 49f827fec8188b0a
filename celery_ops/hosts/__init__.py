"""Machines and the supervisors on them: the only package that runs commands."""

from celery_ops.hosts.pool import HostPool

__all__ = ["HostPool"]
