"""Provenance: the code, versions and settings that a run is made of.

`facts` reads them. The ranks compare them before a run (ranks/agreement.py), and the doctor shows where they differ.
"""
