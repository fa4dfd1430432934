"""Attribution: where in the document each sentence of a summary comes from.

A document is read once (`reading`), `generate` writes its summary, and one more pass of the decoder says how much of
each sentence's attention went to each window (`attribute`; `sentences` tells whose tokens are whose). `predictions`
does so for all summaries of a run, `records` is the file of them all, and `page` draws it as HTML.
"""
