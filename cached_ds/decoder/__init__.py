"""Decoder: it attends to all states of a document, tile by tile, and computes its loss in chunks.

The decoder's layers get a placeholder for the states of the documents (`document_states`). Each cross-attention
(`cross_attention`) streams them through its autograd node (`replay_by_tile`) with the kernels of `tile_kernels`;
`chunked_loss` is the head, and `attention_mass` weighs the windows for reports.
"""
