"""Watch: a run that stands still is ended, and the rank that is at fault is named, not one that waits for it.

Every rank writes a `card`, once a second: where it is, and how long it has not moved. `exchange` carries the cards, and
the verdict, through the store where the ranks met. `culprit` finds in the cards who is at fault. `launcher` sees
whether the command that started this rank is still there. `watchdog` is the thread that does all this, and ends the
process.
"""
