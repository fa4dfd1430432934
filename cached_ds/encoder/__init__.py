"""Encoder: the classes that an encoder and its layers get by `attach`.

`windowed` replays the encoder whole (schedule "window"), `layered` layer by layer (schedule "layer"). `guards` refuse
what an engine did to the parameters; `state` is what `attach` leaves on encoder and decoder.
"""
