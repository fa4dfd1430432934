"""What tests share inside one process, or on ranks that this process starts.

`tiny` makes models and documents (`toy`: for replay alone), `oracle` says what full backpropagation gives, `engines`
takes steps under every engine on the ranks of `rank_pool`, `compare` and `saved_bytes` measure. `published_step` is the
step that the package must beat; `repo` is the repository's own files.
"""
