"""What a killed process started: it ends with it, where it belongs to it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from processes import works

CHILD = """
import sys, time
from distill_hub.starter import end_with_starter
end_with_starter()
print("started", flush=True)
time.sleep(30)
"""
PARENT = """
import contextlib, os, subprocess, sys, time
from distill_hub.starter import as_starter
with as_starter() if sys.argv[1] == "own" else contextlib.nullcontext():
    variables = {"torchrun": "TORCHELASTIC_RUN_ID", "launch": "ACCELERATE_MIXED_PRECISION"}
    environment = {**os.environ, variables.get(sys.argv[1], "NONE"): "no"}
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], env=environment, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize(
    ("whose", "program", "ends"),
    [
        ("own", "shell", True),
        ("torchrun", "shell", True),
        ("launch", "accelerate", True),
        ("launch", "shell", False),  # a person has set Accelerate's variable
        ("a shell's", "accelerate", False),
        ("a shell's", "shell", False),
    ],
)
def test_a_process_ends_with_what_started_it_unless_that_was_a_person(tmp_path, whose, program, ends):
    file = tmp_path / program
    file.write_text(PARENT)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHELASTIC", "ACCELERATE"))}
    parent = subprocess.Popen([sys.executable, str(file), whose, CHILD], env=environment, stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    assert works(child), "it ended before its starter"
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + (10 if ends else 1)
    while (lives := works(child)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert lives != ends
    if lives:
        os.kill(child, signal.SIGKILL)
