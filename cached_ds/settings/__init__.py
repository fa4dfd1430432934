"""Settings: the user's settings are read and checked.

A file becomes a mapping (`config_files`), a mapping becomes a `CachedConfig` (`config`); DeepSpeed's own JSON is
checked against the keys that DeepSpeed knows (`deepspeed_keys`). The message for an unknown name gives the nearest
known one (`unknown_names`), that for a missing optional library the command that installs it (`extras`).
"""
