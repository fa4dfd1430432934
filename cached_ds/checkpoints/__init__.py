"""Checkpoints: what a run has learnt so far is put on disk whole or not at all, and only whole ones are read again.

`manifest` says what belongs to a checkpoint. `commit` writes one: all ranks into a folder beside it (`staging`), then
one rename. `replacing` puts the trained model in the place of an earlier one.
`choice` finds the newest whole one and says which it skipped.
"""
