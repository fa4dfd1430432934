"""Document: what document.py makes of its trials.

`results` reads them, `tables` has the tables and what is promised, `plots` draws them. `paper` is arithmetic: one
document on GPUs.
"""
