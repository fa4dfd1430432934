"""Subjects: what is measured.

`shape` makes the model and the document, `variants` names the peers and the settings of cached_ds that are compared,
`trainers` take the same training step under every engine, `lengths` draws the document lengths of whole data sets.
"""
