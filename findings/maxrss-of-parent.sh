#!/bin/bash
# Guess:   ru_maxrss from wait4(2) is the peak memory of the program that the child ran: execve(2) resets it.
# Happens: it includes what the child had before execve(2). After fork(2) that is the parent's memory at this moment.
#          After posix_spawn(3) or vfork(2), which share the parent's memory, it is the parent's highest peak so far,
#          even if the parent has given the memory back long before.
# Seen on: Linux 6.18, glibc 2.36, Python 3.11. getrusage(2) does not mention it.
# Matters: a large test runner reports its own size for every small program, and a limit or a comparison by this number
#          fails for the wrong program. VmHWM in /proc/PID/status is reset by execve(2).
set -euo pipefail
echo "Linux $(uname -r), $(ldd --version | head -1), $(python3 --version)"
python3 - <<'PY'
import mmap, os, sys

def peak(how):
    if how == "fork":
        child = os.fork()
        if child == 0:
            os.execv("/bin/true", ["true"])
    else:
        child = os.posix_spawn("/bin/true", ["true"], {})
    return os.wait4(child, 0)[2].ru_maxrss // 1024

def row(when):
    peaks = [peak("fork"), peak("spawn")]
    print(f"{when}: /bin/true has a peak of {peaks[0]} MiB after fork, {peaks[1]} MiB after posix_spawn")
    return [size >= 200 for size in peaks]

small = row("small parent")
memory = mmap.mmap(-1, 200 << 20, flags=mmap.MAP_PRIVATE)  # fork shares it until one side writes
for page in range(0, len(memory), mmap.PAGESIZE):
    memory[page] = 1
large = row("parent that uses 200 MiB more")
memory.close()
freed = row("parent that gave them back")
if [small, large, freed] != [[False, False], [True, True], [False, True]]:
    sys.exit("changed: not what the comment says")
PY
