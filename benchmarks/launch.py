"""Run one command and print its time and memory as JSON: `python -I -S launch.py OUTPUT COMMAND...`.

A process of its own, and a small one: the kernel counts into a command's peak memory that of the process
which started it.
"""

import json
import os
import sys
import time

output, command = sys.argv[1], sys.argv[2:]
null, flags = os.open(os.devnull, os.O_RDWR), os.O_WRONLY | os.O_CREAT | os.O_TRUNC
actions = [(os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600), (os.POSIX_SPAWN_DUP2, null, 2)]
start = time.perf_counter()
process = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - start
result = {
    "seconds": seconds,
    "cpu_seconds": usage.ru_utime + usage.ru_stime,
    "peak_mb": usage.ru_maxrss / 1024,  # Linux counts in kB
    "status": os.waitstatus_to_exitcode(status),
}
print(json.dumps(result))
