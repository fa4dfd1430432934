"""Sources: where documents come from; each becomes rows of text, summary and prefix.

`local_files` reads files of the user, `hub` the Hugging Face hub; `keyfacts` and `pysource` (with `docstrings`) need no
download.
"""
