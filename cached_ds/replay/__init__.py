"""Replay: run passes without a graph, run them again in backward, return each parameter's gradient once.

`by_window` replays a whole encoder, `by_layer` one encoder layer over the batch of all windows (`window_batch`). Both
need random numbers that can be drawn again (`rng`), the autocast state (`autocast`), buffers that may be offloaded
(`offload`) and sums of gradients (`sums`).
"""
