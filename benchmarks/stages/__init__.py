"""Stages: the scripts that `make gpu` runs one after another, each in a process of its own.

Each gets its settings as JSON in its only argument and prints rows (`rows`); harness/timetable.py starts them. `suite`
runs the tests of a GPU; `checks` compares gradients with full backpropagation, with those of kept graphs and of states
that stay on the device; `steps` takes training steps, for memory and speed; `generation` generates.
"""
