"""Ranks: who this process is, and where all processes meet before any work.

`discovery` reads the launcher's variables (`mpi` asks MPI). `startup` begins a run: `rendezvous` brings the ranks
together, and `agreement` compares what they must have in common. `logs` decides which rank says what, and where.
"""
