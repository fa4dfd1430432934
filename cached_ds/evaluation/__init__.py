"""Evaluation: what a trained model produces.

`metrics` scores summaries, `curves` draws the curves of a run, `summarize` summarizes text files, and `attribution`
says where in the document a summary's sentences come from.
"""
