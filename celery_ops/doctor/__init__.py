"""What is wrong with a fleet, the evidence, and the fix."""

from celery_ops.doctor import beats, held, holds, machines, pauses
from celery_ops.doctor.rules import RULES, Rule, examine

__all__ = ["RULES", "Rule", "beats", "examine", "held", "holds", "machines", "pauses"]
