"""Planning: settings that are left to the machine are decided by measurement.

`budget` knows how much memory there is, `tuner` measures and decides, `compiled` compiles the layers.
"""
