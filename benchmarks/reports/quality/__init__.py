"""Quality: what quality.py makes of its trials.

`tables` has its tables and what it promises, `plots` draws scores and learning curves.
"""
