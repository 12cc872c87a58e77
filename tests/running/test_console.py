"""In a log file bars are whole lines; on a terminal they are bars."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

NESTED = """
import time
from distill_hub.running import console
{change}
for outer in console.progress(range(2), "outer", unit="chunk"):
    bar = console.progress(range(3), "inner", unit="step", done=1)
    for step in bar:
        time.sleep(0.01)
        bar.set_postfix(loss=f"{step}", refresh=False)
print("done")
"""


def in_a_log(tmp_path, change=""):
    log = tmp_path / "log"
    with log.open("wb") as file:
        code = NESTED.replace("{change}", change)
        subprocess.run([sys.executable, "-c", code], stdout=file, stderr=file, check=True, timeout=60)
    return log.read_text()


def test_in_a_log_a_bar_within_a_bar_writes_whole_lines_and_moves_no_cursor(tmp_path):
    log = in_a_log(tmp_path)
    assert not re.search(r"[\r\x1b\b]", log) and log.endswith("\n")
    told = [line.split(" [")[0] for line in log.splitlines()]
    one = ["inner: 25 %, 1 of 4", "inner: 100 %, 4 of 4"]
    assert told == ["outer: 0 %, 0 of 2", *one, *one, "outer: 100 %, 2 of 2", "done"]
    assert re.search(r"inner: 100 %, 4 of 4 \[00:00<00:00, +[\d.]+step/s, loss=2\]", log)


def test_a_long_one_tells_how_far_it_is_now_and_then(tmp_path):
    told = [line.split(" [")[0] for line in in_a_log(tmp_path, "console.PAUSE = 0.005").splitlines()]
    inner = [f"inner: {25 * n} %, {n} of 4" for n in range(1, 5)]
    assert told == ["outer: 0 %, 0 of 2", *inner, "outer: 50 %, 1 of 2", *inner, "outer: 100 %, 2 of 2", "done"]


def test_on_a_terminal_it_is_a_bar():
    terminal, stderr = pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    code = NESTED.replace("{change}", "")
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=stderr, check=True, timeout=60)
    os.close(stderr)
    shown = os.read(terminal, 100_000).decode()
    assert re.search(r"\router: 100%\|█+\| 2/2 \[", shown)


LONG_ONE = """
import time
from distill_hub.running import console
console.SOON, console.LONG = 0.2, {long}
for title in ("first", "second"):
    for step in console.progress(range(10), title, unit="step"):
        time.sleep(0.5 if step == 0 else 0.03)
"""


def test_what_takes_long_says_so_once_with_what_is_quicker(tmp_path):
    """After two items that count, 7 or 8 are left, of 0.03 s each; the first, which also loads, would make it 4.5 s."""
    for limit, times in ((0.1, 1), (2.0, 0)):
        code = LONG_ONE.replace("{long}", str(limit))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        said = [line for line in done.stderr.splitlines() if "to go on this machine" in line]
        assert len(said) == times and not done.stdout
        assert all(line.startswith("first: about ") and "--dry_run" in line for line in said)


LONG_WITHIN = """
import time
from distill_hub.running import console
console.SOON, console.LONG = 0.2, 1.0
for outer in console.progress(range(8), "outer", unit="chunk"):
    for step in console.progress(range(20), "inner", unit="step"):
        time.sleep(0.03)
"""


def test_a_bar_within_another_counts_what_that_has_still_to_do():
    """One round takes 0.6 s, and after 0.2 s of the first the other seven, 4.2 s, are still to come."""
    done = subprocess.run([sys.executable, "-c", LONG_WITHIN], capture_output=True, text=True, check=True, timeout=60)
    (said,) = (line for line in done.stderr.splitlines() if "to go on this machine" in line)
    assert 3.5 < float(re.match(r"outer: about ([0-9.]+) s to go", said)[1]) < 30
    before = done.stderr[: done.stderr.index(said)]
    assert "\x1b" not in done.stderr and "\r" not in done.stderr  # in a log nothing moves the cursor
    assert "outer: 12 %" not in before  # it was said within the first round
