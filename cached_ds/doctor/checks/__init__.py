"""Checks: each file measures some things on every rank, and judges them by all ranks' facts.

`check` defines a check, `context` is what it is told about its rank; `software`, `machine`, `clock`, `network` and
`files` are the checks, in the order in which a run would meet their faults.
"""
