"""Run: one run from the command line.

Flags and recipes (`recipe`) are brought into one form (`flags`), parsed (`arguments`) and turned into a tokenizer, data
and a model (`build`).
"""
