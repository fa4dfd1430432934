"""Document parallelism: the ranks of a group read one document, each its share of the windows.

`mesh` says which ranks are a group, `lockstep` keeps their random numbers alike, `shares` deals the windows, and
`merging` makes one attention of what each rank has found. Nothing that is sent depends on the document's length:
`traffic` says how much it is, and `choice` how large a group is best.
"""
