"""A consumer that notes its start and its process id. Its "socket" says whether it dies, stays or shows life."""

import os
import sys
import time
from pathlib import Path

from worker import signs_of_life
from worker.processes import die_with_parent

die_with_parent(int(sys.argv[1]))
notes = Path(sys.argv[2])
with notes.open("a") as file:
    file.write(f"{os.getpid()}\n")
if notes.name == "dies":
    sys.exit(7)
if notes.name == "signs":
    signs_of_life.EVERY_S = 0.1
    signs_of_life.show_signs_of_life(int(sys.argv[3]))
time.sleep(600)
