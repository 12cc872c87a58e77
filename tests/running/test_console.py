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
