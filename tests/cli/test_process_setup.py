"""What a process of the service asks of the C library and the kernel."""

import subprocess
import sys

import pytest

BURST = """
import queue, threading, time
from pathlib import Path

from prinz_enricher.cli.process_setup import wait_for_signal

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

def burst():
    # A few of the pieces stay, so that the heap can't just end earlier.
    pieces = [bytes(2000) for _ in range(300_000)]
    return pieces[::1000], resident()

def run():
    kept, most = burst()
    while resident() > most // 2:
        time.sleep(0.1)
    signals.put(15)

signals = queue.SimpleQueue()
threading.Timer(0.1, run).start()
assert wait_for_signal(signals) == 15
"""

FILES = """
import resource
import sys

from prinz_enricher.cli.process_setup import raise_file_limit

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
assert raise_file_limit() == hard
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
if sys.platform == "linux":
    size = next(line for line in open("/proc/self/status") if line.startswith("FDSize:"))
    assert int(size.split()[1]) >= min(hard, 1 << 16)
"""


def run(script: str) -> None:
    """Run Python code in a process of its own."""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the C library is another")
def test_memory_of_a_burst_goes_back_to_the_system() -> None:
    """What a burst of 600 MB has freed does not stay with the process while it waits for its end."""
    run(BURST)


def test_a_process_may_open_as_many_files_as_there_may_be() -> None:
    """A low soft limit of open files is raised to the hard one, and the kernel's table has room for them."""
    run(FILES)
