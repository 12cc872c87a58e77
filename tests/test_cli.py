"""The command line: light to start, one line and exit code 2 for what cannot be used, and an end without delay."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

import distill_hub
from distill_hub.cli import COMMANDS

HEAVY = ["torch", "torchvision", "diffusers", "transformers", "timm", "accelerate"]
ROWS = ["datasets", "pandas", "pyarrow"]  # what reading rows takes
DRAWN = ["matplotlib", "sklearn", "scipy.stats"]
NAME = "fish-ipc2-cao2"  # of the small set
REPO = f"org/{NAME}"
LOADED = """
import json, sys
asked = sys.argv.pop(1).split()
from distill_hub.cli import main
try:
    main()
finally:
    print(json.dumps([name for name in asked if name in sys.modules]))
"""


def run(*words: str, **how) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "distill_hub.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **how)


def loaded(*words: str, **how) -> tuple[subprocess.CompletedProcess, set[str]]:
    """Run a command; return what came of it, and what of all that takes long it had loaded at its end."""
    command = [sys.executable, "-c", LOADED, " ".join([*HEAVY, *ROWS, *DRAWN]), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **how)
    return done, set(json.loads(done.stdout.splitlines()[-1]))


# What is loaded.


def test_a_recipe_without_a_generator_loads_neither_diffusers_nor_timm():
    """What it draws with and other classifiers, which take longer to load than all the rest, it leaves alone."""
    code = "import distill_hub.making.finish, distill_hub.making.matched, json, sys; print(json.dumps(list(sys.modules)))"
    found = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True, timeout=300))
    assert not {"diffusers", "transformers", "timm", "torchvision", "matplotlib"} & set(found)


@pytest.mark.parametrize("words", [("--help",), *((name, "--help") for name in COMMANDS)])
def test_help_explains_and_loads_nothing_heavy(words):
    result, found = loaded(*words)
    assert result.returncode == 0, result.stderr
    assert not found
    assert ("bug report" if words[0] == "env" else "distilled set") in result.stdout
    usage = {"push": "push path [repository] [options]\n", "search": "search [words] [options]\n"}
    assert usage.get(words[0], "usage: ") in result.stdout
    assert f"\n    distill-hub {words[0]}" in result.stdout or words[0] in ("--help", "make")  # examples, line by line


def test_the_version_is_the_package_s():
    result, found = loaded("--version")
    assert result.stdout.startswith(f"distill-hub {distill_hub.__version__}\n") and not found


def test_a_set_is_described_and_compared_without_what_reads_rows(artifact, tmp_path):
    for words, allowed in (
        (["info", str(artifact)], set()),
        (["compare", str(artifact), "--json", str(tmp_path / "rows.json")], set()),
        (["compare", str(artifact), "--html", str(tmp_path / "page.html")], set(ROWS)),
    ):
        result, found = loaded(*words)
        assert result.returncode == 0 and result.stderr == ""
        assert NAME in result.stdout
        assert found <= allowed
    assert (tmp_path / "page.html").stat().st_size > 10_000 and json.loads((tmp_path / "rows.json").read_text())


def test_a_set_is_published_and_looked_at_on_the_hub_without_torch(hub, artifact, tmp_path):
    alice = {"env": hub.environment(tmp_path / "alice", "hf_alice"), "cwd": tmp_path}
    stranger = {"env": hub.environment(tmp_path / "stranger"), "cwd": tmp_path}
    result, found = loaded("push", str(artifact), REPO, **alice)
    assert result.returncode == 0, result.stderr
    assert f"{REPO}, commit {hub.repos[REPO].head().sha}" in " ".join(result.stdout.split())
    assert found <= set(ROWS)
    for command in ("info", "compare"):
        result, found = loaded(command, REPO, **stranger)
        assert result.returncode == 0 and result.stderr == ""
        assert NAME in result.stdout
        assert not found
    for words in (["push", str(artifact), "bob/fish"], ["evaluate", REPO, "--revision", "gone"], ["info", "org/nothing"]):
        result, found = loaded(*words, **alice)
        assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
        assert found <= (set(ROWS) if words[0] == "push" else set())


def test_no_bar_of_the_client_comes_to_a_terminal(hub, artifact, tmp_path):
    environment = hub.environment(tmp_path / "home", "hf_alice")
    assert run("push", str(artifact), REPO, env=environment).returncode == 0
    terminal, stderr = pty.openpty()
    environment = {**environment, "HF_HUB_CACHE": str(tmp_path / "cold")}
    del environment["HF_HUB_DISABLE_PROGRESS_BARS"]
    command = [sys.executable, "-m", "distill_hub.cli", "info", REPO]
    os.write(stderr, b"nothing but this")
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, check=True, timeout=300)
    os.close(stderr)
    assert list((tmp_path / "cold").rglob("manifest.json"))  # it was downloaded
    assert os.read(terminal, 10_000) == b"nothing but this"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("evaluate NOWHERE", "there is no such folder"),
        ("evaluate EMPTY", "it holds nothing"),
        ("evaluate EMPTY/notes.txt", "readable are parquet files"),
        ("evaluate DAMAGED", "manifest.json"),
        ("evaluate SET --students convnet-two", "did you mean 'convnet-"),
        ("evaluate SET --protocol idc-hrad", "did you mean 'idc-hard'"),
        ("evaluate SET --teacher NOWHERE", "there is no such folder"),
        ("evaluate SET --source ../nowhere", "there is no such folder"),
        ("evaluate SET --submit", "is not on the Hub"),
        ("relabel NOWHERE", "there is no such folder"),
        ("relabel EMPTY", "no manifest.json"),
        ("relabel org/set", "a set on this machine is needed"),
        ("relabel SET --teacher NOWHERE", "there is no such folder"),
        ("adopt NOWHERE --source cifar10 --method dm", "there is no such folder"),
        ("adopt EMPTY --source cifar10 --method dm", "it holds nothing"),
        ("adopt EMPTY --source cifra10 --method dm", "did you mean 'cifar10'"),
        ("adopt SET --source cifar10 --method dm", "it is in the artifact format already"),
        ("reproduce NOWHERE", "there is no such folder"),
        ("reproduce EMPTY", "no manifest.json"),
        ("reproduce SET --teacher NOWHERE", "there is no such folder"),
        ("info NOWHERE", "there is no such folder"),
        ("info EMPTY", "no manifest.json"),
        ("compare SET NOWHERE", "there is no such folder"),
        ("compare SET --html EMPTY", "it is a folder"),
        ("push NOWHERE", "the folder of a distilled set is needed"),
        ("push SET no--id", "valid: NAMESPACE/NAME"),
        ("push SET org/set", "HF_HUB_OFFLINE"),
    ],
)
def test_a_wrong_name_is_refused_before_torch_is_loaded(words, reason, artifact, tmp_path):
    empty, damaged = tmp_path / "empty", tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{")
    empty.mkdir()
    if "notes" in words:
        (empty / "notes.txt").write_text("not a set")
    places = {"NOWHERE": tmp_path / "nowhere", "EMPTY": empty, "DAMAGED": damaged, "SET": artifact}
    for name, path in places.items():
        words = re.sub(rf"\b{name}\b", str(path), words)
    result, found = loaded(*words.split(), cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and reason in result.stderr
    assert found <= (set(ROWS) if words.split()[0] in ("push", "reproduce") else set())


def test_what_there_is_no_command_for_is_refused():
    result = run("evalute", "x")
    assert result.returncode == 2
    assert "'evalute'" in result.stderr and "(did you mean 'evaluate'?)" in result.stderr


@pytest.mark.parametrize(
    ("command", "reason"), [("info", "no manifest.json"), ("evaluate", "it holds nothing"), ("push", "no manifest.json")]
)
def test_what_is_no_set_is_refused_in_one_line(command, reason, tmp_path):
    nowhere = "the folder of a distilled set is needed" if command == "push" else "there is no such folder"
    for path, words in ((tmp_path / "nowhere", nowhere), (tmp_path, reason)):
        result = run(command, str(path))
        assert result.returncode == 2
        assert words in result.stderr and str(path) in result.stderr
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


# How it ends.


def ends(body: str, tmp_path: Path, **how) -> subprocess.CompletedProcess:
    """Run the command with something else in place of what it does."""
    code = f"import sys\nfrom distill_hub import cli\n{body}\ncli.main = main\ncli.command()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path, **how)


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ("def main(): print('said', end='')", 0, ""),
        ("def main(): print('said', end=''); sys.exit()", 0, ""),
        ("def main(): print('said', end=''); sys.exit(2)", 2, ""),
        ("def main(): print('said', end=''); raise SystemExit(130)", 130, ""),
        ("def main(): print('said', end=''); sys.exit('of text')", 1, "of text\n"),
        ("def main(): print('said', end=''); raise OSError('of a kind')", 1, "OSError: of a kind\n"),
        ("def main(): print('said', end=''); raise KeyboardInterrupt", 130, "the same command goes on where it stopped\n"),
    ],
)
def test_what_was_said_arrives_and_the_code_is_kept(body, code, told, tmp_path):
    done = ends(body, tmp_path)
    assert (done.returncode, done.stdout) == (code, "said")
    assert done.stderr.endswith(told) and bool(done.stderr) == bool(told)
    assert ("Traceback" in done.stderr) == ("OSError" in told)


LEFT = """
import atexit, multiprocessing, pathlib, tempfile, threading, time
class Slow:
    def __del__(self):
        print("taken down")
def finish():
    time.sleep(0.3)
    pathlib.Path("written").write_text("x" * 1_000_000)
def main():
    global kept, folder
    kept, folder = Slow(), tempfile.TemporaryDirectory(dir=".", prefix="temporary")
    threading.Thread(target=finish).start()
    child = multiprocessing.Process(target=time.sleep, args=(60,), daemon=True)
    child.start()
    atexit.register(print, "cleaned up")
    print(child.pid)
    print("x" * 1_000_000)
"""


def test_nothing_is_lost_and_nothing_left_behind(tmp_path):
    """Threads finish, temporary folders and child processes go; only what serves nobody is left out."""
    done = ends(LEFT, tmp_path)
    pid, said, last = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(said) == 1_000_000 and last == "cleaned up"
    assert [file.name for file in tmp_path.iterdir()] == ["written"]
    assert (tmp_path / "written").stat().st_size == 1_000_000
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_a_reader_that_has_enough_is_no_error(artifact, tmp_path):
    (tmp_path / "many.py").write_text(
        "from distill_hub import cli\ncli.main = lambda: [print(n) for n in range(100_000)]\ncli.command()"
    )
    for command, first in ((f"-m distill_hub.cli info {artifact}", "name"), ("many.py", "0")):
        line = f"set -o pipefail; {sys.executable} {command} | head -1"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert done.stdout.split()[0] == first and done.stderr == ""
        assert done.returncode in ((0, 1) if "info" in command else (1,))  # a short text may be out before head ends


@pytest.mark.parametrize(
    ("words", "streams", "code", "said"),
    [
        ("--help", ">/dev/full", 2, "no space left"),
        ("make", ">/dev/full", 2, "no space left"),
        ("info SET", ">/dev/full", 2, "no space left"),
        ("info SET", ">&-", 0, ""),
        ("info SET", ">&- 2>&-", 0, ""),
        ("info nothing", "2>/dev/full", 2, ""),
        ("info nothing", "2>&-", 2, ""),
        ("info nothing", ">&-", 2, "error: distilled set: 'nothing'"),
    ],
)
def test_streams_that_take_nothing_change_no_code(words, streams, code, said, artifact, tmp_path):
    line = f"{sys.executable} -m distill_hub.cli {words.replace('SET', str(artifact))} {streams}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == (1 if said else 0)


def test_an_interruption_while_settings_are_loaded_has_no_traceback(tmp_path):
    """What is imported before `command` can catch it is little: Python itself and two files."""
    code = "import sys; before = set(sys.modules); import distill_hub.cli; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert {name for name in done.stdout.split() if name.startswith("distill_hub")} == {
        "distill_hub", "distill_hub.cli", "distill_hub.text",
    }  # fmt: skip
    body = "def main():\n    import distill_hub.config\n    raise KeyboardInterrupt"
    done = ends(body, tmp_path)
    assert done.returncode == 130 and "Traceback" not in done.stderr


def test_a_second_interruption_does_not_interrupt_the_end(tmp_path):
    body = """
import dataclasses, os, signal
from distill_hub import config, ending
def interrupt(_):
    os.kill(os.getpid(), signal.SIGINT)
def tell(line, told=ending.tell):
    told(line)
    interrupt(None)
ending.tell = tell
def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs this may ignore it
    config.launch(interrupt, dataclasses.make_dataclass("Settings", []), None, [], light=True)
"""
    done = ends(body, tmp_path)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted; the same command goes on where it stopped\n")


def test_no_word_of_info_is_broken_at_any_width(artifact):
    content = json.loads((artifact / "manifest.json").read_bytes())["content_sha256"]
    for width in ("60", "80", "200"):
        done = run("info", str(artifact), env={**os.environ, "COLUMNS": width})
        lines = done.stdout.splitlines()
        assert f"content      {content}" in lines
        assert all(len(line) <= int(width) for line in lines if content not in line and "Next" not in line)
        assert lines[-1] == f"Next: `distill-hub evaluate {artifact}` scores it again"
        assert "\nTo cite the method:\n@inproceedings{cao2,\n  title = {CaO2},\n}\n" in done.stdout


def test_a_table_breaks_between_columns():
    code = (
        "from rich.table import Table; from distill_hub.running.console import show\n"
        "table = Table(*'abcdefgh', title='mean \u00b1 std', caption='below')\n"
        "table.add_row('the first', *['90.4 \u00b1 0.4'] * 7)\nshow(table)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "COLUMNS": "60"}, timeout=60
    )
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 60
    assert done.stdout.count("90.4 \u00b1 0.4") == 7 and done.stdout.count("the first") == 3
    assert "mean" in lines[0] and lines[-1].strip() == "below" and done.stdout.count("below") == 1
