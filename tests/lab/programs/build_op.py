"""Compiles DeepSpeed's shared-memory operator of the CPU, which its first run would wait for."""

from __future__ import annotations

from deepspeed.ops.op_builder import ShareMemCommBuilder

if __name__ == "__main__":
    ShareMemCommBuilder().load()
