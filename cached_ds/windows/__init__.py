"""Windows: a document becomes windows, windows become passes.

`cut` is pure arithmetic on the host: documents, windows, where kept states go. `passes` moves them to the device as the
encoder's inputs.
"""
