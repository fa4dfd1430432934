"""Evaluation: what comes out of a trained model.

`metrics` scores summaries, `curves` draws a run, `summarize` reads text files.
"""
