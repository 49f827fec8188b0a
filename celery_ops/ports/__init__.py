"""The Protocols through which fleet, runbook and doctor see the world.

Reads and effects are kept apart by type: a `Question` can only be asked, an `Order` changes
something and needs a `Fence`, the proof that its sender holds the context's lease. Adapters live
in `broker` and `hosts`; they translate every library error into one of `celery_ops.errors`.
"""

from celery_ops.ports.asking import (
    Followed,
    GivenBack,
    Question,
    QueueReading,
    QueuesReading,
    Reply,
    Results,
    Round,
    Unacked,
)
from celery_ops.ports.broker import Broker, Lease
from celery_ops.ports.changing import AddConsumer, CancelConsumer, Control, Fence, Order
from celery_ops.ports.clock import Clock
from celery_ops.ports.hosts import (
    BootSupervisor,
    Command,
    Completed,
    HostReading,
    Hosts,
    ProcessTree,
    Shell,
    Supervisor,
)
from celery_ops.ports.launching import RunLauncher
from celery_ops.ports.messages import (
    IN_LINE_FOR,
    SENT_KEPT,
    Divided,
    Division,
    FirstInLine,
    MessageDivider,
    MessageReading,
    MessageSearch,
    MessageStore,
    Priorities,
    Transfer,
    Transferred,
)
from celery_ops.ports.releases import ReleaseLayout, ReleasesReading

__all__ = [
    "IN_LINE_FOR",
    "SENT_KEPT",
    "AddConsumer",
    "BootSupervisor",
    "Broker",
    "CancelConsumer",
    "Clock",
    "Command",
    "Completed",
    "Control",
    "Divided",
    "Division",
    "Fence",
    "FirstInLine",
    "Followed",
    "GivenBack",
    "HostReading",
    "Hosts",
    "Lease",
    "MessageDivider",
    "MessageReading",
    "MessageSearch",
    "MessageStore",
    "Order",
    "Priorities",
    "ProcessTree",
    "Question",
    "QueueReading",
    "QueuesReading",
    "ReleaseLayout",
    "ReleasesReading",
    "Reply",
    "Results",
    "Round",
    "RunLauncher",
    "Shell",
    "Supervisor",
    "Transfer",
    "Transferred",
    "Unacked",
]
