"""Guards: what a run does about a bad step, a signal, a lack of memory and a full disk, on all ranks alike.

`trainer` is the mixin that `CachedSeq2SeqTrainer` has by default, and `step` the callback that decides. `traces` notes
what the micro-batches of a step gave, `finite` says what of it is wrong, and `rounds` shares each step's flags in one
all-reduce. `requests` hears signals and sees the file `save_now`. `memory` and `disk` make a sentence of their errors,
and `faults` is the error that carries it.
"""
