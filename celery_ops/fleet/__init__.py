"""What is true now: replies, heartbeats, queue sizes and supervisors joined into snapshots."""
