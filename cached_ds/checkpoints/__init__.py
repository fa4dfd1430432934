"""Checkpoints: what a run has learnt so far is put on disk whole or not at all, and only whole ones are read again.

`manifest` says what belongs to a checkpoint. `commit` writes one: all ranks into a folder beside it, then one rename.
`choice` finds the newest whole one and says which it skipped.
"""
