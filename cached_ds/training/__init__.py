"""Training: transformers' Seq2SeqTrainer for attached models.

`trainer` brings them together: ranks with about the same number of tokens (`sampler`), a progress bar with tokens and
windows (`progress`), and the checkpoint that a run resumes from (`checkpoints`).
"""
