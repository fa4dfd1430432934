"""Settings: what a user may say, read and checked.

A file becomes a mapping (`config_files`), a mapping becomes a `CachedConfig` (`config`); DeepSpeed's own JSON is
checked against the keys that DeepSpeed knows (`deepspeed_keys`). An unknown name is answered with the nearest known
one (`unknown_names`).
"""
