"""Planning: what is left to the machine, decided once, before the first batch is read.

`budget` knows how much memory there is, `tuner` measures and decides, `compiled` compiles the layers.
"""
