"""Workers: the scripts that are the processes of a trial.

Each gets the settings of its trial as JSON in its only argument, and prints its result as JSON in the last line. The
harness starts them with PYTHONPATH=benchmarks: `one_step` for memory.py and speed.py, `longest_step`, `scaling_step`
and `larger_step` for the scripts of these names. `rank` is no script, but what the ranks of the last two share.
"""
