"""Encoder: the classes that an encoder and its layers get from `attach`.

`windowed` replays the encoder whole (schedule "window"), `layered` layer by layer (schedule "layer"). `guards` refuse
an engine's sharding that replay cannot work with; `state` is what `attach` leaves on encoder and decoder.
"""
