"""Training: transformers' Seq2SeqTrainer for attached models.

`trainer` brings them together: ranks with about the same number of tokens (`sampler`), a progress bar with tokens and
windows (`progress`), the checkpoint a run goes on from (`checkpoints`).
"""
