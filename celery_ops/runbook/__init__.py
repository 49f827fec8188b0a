"""Runbooks: the language, the planner, the executor and its journal.

Sees the fleet and the world through `fleet` and `ports` only.
"""
