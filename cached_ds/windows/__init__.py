"""Windows: a document becomes windows, windows become passes.

`cut` is pure arithmetic on the host: where documents and windows lie, and where the kept states go. `passes` moves the
windows to the device as the encoder's inputs.
"""
