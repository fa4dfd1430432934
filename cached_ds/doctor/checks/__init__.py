"""Checks: each file measures one thing on every rank and judges it by all ranks' facts.

`check` says what a check is, `context` what it is told about its rank; `software`, `machine`, `clock`, `network` and
`files` are the checks, in the order in which a run would meet their faults.
"""
