"""A process that holds a lock as torch's builder of operators does: `lock_holder.py FILE`."""

from __future__ import annotations

import os
import sys
import time

if __name__ == "__main__":
    os.open(sys.argv[1], os.O_CREAT | os.O_EXCL)
    print("held", flush=True)
    time.sleep(60)
