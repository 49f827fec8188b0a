"""The command line: the only place that joins all the rest, and the only one that knows exit codes.

Every command imports what it needs when it runs, so that `--help` and `status` start at once.
"""
