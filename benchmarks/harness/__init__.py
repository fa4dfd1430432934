"""Harness: how every benchmark runs.

`benchmark` takes a script's plan, table, promises and plot, and does the rest. It hands the plan to `trials`, which
runs each trial in a fresh process (a script of workers/), confined to its share of the `machine`, and writes the result
into a JSON file. `runners` start the ranks of a trial that has several. `timetable` runs the stages of gpu.py, whose
time is limited.
"""
