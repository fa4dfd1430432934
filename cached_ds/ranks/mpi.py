"""MPI: where the ranks meet. mpirun tells each process its rank, but not where rank 0 is, so MPI itself is asked."""

from __future__ import annotations

import functools
import os
import socket

import psutil


@functools.cache
def master(*, rank: int, world_size: int) -> tuple[str, int]:
    """Address of rank 0 and a free port there, known to all ranks after one broadcast.

    MPI is finalised at once, since nothing else uses it and mpirun reports a process that ends without finalising as
    failed. It cannot be asked twice, so the answer is cached.

    Raises:
        MissingExtra: mpi4py is not installed.
        ValueError: mpi4py finds no MPI library, or another one than the mpirun that started this process.
    """
    remedy = "set MASTER_ADDR and MASTER_PORT for all ranks instead"
    try:
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        from cached_ds.settings.extras import MissingExtra  # only now: this file can be loaded without the package

        raise MissingExtra("mpi4py", user="mpirun without MASTER_ADDR and MASTER_PORT") from error
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"mpi4py finds no MPI library ({error}); {remedy}") from error
    world = MPI.COMM_WORLD
    if world.size != world_size:
        raise ValueError(
            f"mpirun started {world_size} processes, but mpi4py sees {world.size}: its library "
            f"({MPI.get_vendor()[0]}) is not mpirun's; {remedy}"
        )
    found: tuple[str, int] = world.bcast((own_address(), free_port()) if rank == 0 else None, root=0)
    MPI.Finalize()
    return found


def own_address() -> str:
    """An IPv4 address of this host that others can reach: of the interface in GLOO_SOCKET_IFNAME, or of the first.

    Raises:
        ValueError: GLOO_SOCKET_IFNAME names no interface with an address.
    """
    addresses = {
        name: entry.address
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET
    }
    wanted = os.environ.get("GLOO_SOCKET_IFNAME")
    if wanted is not None and wanted not in addresses:
        raise ValueError(
            f"GLOO_SOCKET_IFNAME={wanted!r}: no such interface with an address; there are {list(addresses)}"
        )
    outside = [address for address in addresses.values() if not address.startswith("127.")]
    return addresses[wanted] if wanted is not None else [*outside, "127.0.0.1"][0]


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
