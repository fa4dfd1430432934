"""Evaluation: what a trained model produces.

`metrics` scores summaries, `curves` draws the curves of a run, `summarize` summarizes text files.
"""
