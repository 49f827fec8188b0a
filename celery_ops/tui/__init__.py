"""The screens. Sees the fleet as snapshots and runs through a desk; knows no broker and no host.

The app owns the state; it goes down into widgets by reactives, and what widgets want goes up as
messages.
"""
