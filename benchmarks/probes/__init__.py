"""Probes: what a step costs, seen from outside or expected by arithmetic.

In the process of a trial, `process` looks at resident memory, saved bytes and seconds of the encoder, `matmuls` at the
machine's own rate, `device` at a GPU, `collectives` and `state_bytes` at one rank. `flops` and `idle` are arithmetic:
the operations of a step, and the share of rank-time that an order of documents leaves idle.
"""
