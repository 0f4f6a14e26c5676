"""A consumer that notes its start and its process id, and dies at once or stays, as the name of its "socket" says."""

import os
import sys
import time
from pathlib import Path

from worker.processes import die_with_parent

die_with_parent(int(sys.argv[1]))
notes = Path(sys.argv[2])
with notes.open("a") as file:
    file.write(f"{os.getpid()}\n")
if notes.name == "dies":
    sys.exit(7)
time.sleep(600)
