"""Provenance: what a run is made of: its code, versions and settings.

`facts` reads them. The ranks compare them before a run (ranks/agreement.py), the doctor shows where they differ, and a
run's report will name them.
"""
