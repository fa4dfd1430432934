"""Sources: where documents come from; each source yields rows of text, summary and perhaps a prefix.

`load` chooses the source that the flags name. `local_files` reads the user's files, `hub` the Hugging Face hub;
`keyfacts` and `pysource` (with `docstrings`) need no download.
"""
