"""What README.md tells a newcomer to type works as it stands, line by line, in one folder and with a Hub on this machine."""

import contextlib
import json
import os
import runpy
import shlex
import signal
import sys
import unittest.mock
from pathlib import Path

from markdown_it import MarkdownIt
from processes import ROOT, run_python

# Behind what is typed, so that recipes are done in a moment: with models that other tests fit, and few students.
_LEAST = "--teacher_epochs 4 --view_epochs 0"
SMALLER = {
    "cao2": f"--fit_vae_steps 60 --fit_dit_steps 600 --fit_vae_width 8 --fit_dit_width 64 --fit_dit_layers 2 {_LEAST} "
    "--sample_steps 10 --pool_factor 2 --refine_steps 5 --score no",
    "dm": f"--match_steps 3 {_LEAST} --students convnet-1-w16 --repeats 1",
    "idc": f"--ipc 1 --match_networks 1 --match_steps 1 --network convnet-1-w16 {_LEAST} --score no",
}
# What takes more than this machine has, or is no command of this package, and where it is tested instead.
ELSEWHERE = {
    "pip install": "tests/test_packaging.py",
    "git clone": "tests/test_packaging.py",
    "pytest": "tests",
    "accelerate launch": "tests/recipes/test_recipes.py",
    "torchrun": "tests/recipes/test_recipes.py",
    "hf auth login": "tests/publishing",
    "--multi_gpu": "tests/launching/test_launcher.py",
    "--join": "tests/teams",
    "--config imagenet1k": "tests/recipes/test_configs.py",
    "--source imagenette --dry_run": "tests/recipes/test_dry_run.py",
    "evaluate path/to/set.pt": "tests/foreign",
}
OUTPUT = ("", "text", "bibtex")  # languages of blocks that nobody runs


def typed(text: str) -> list[tuple[str, str]]:
    """Return what a Markdown file tells people to run, in its order: "shell" and a command, or "python" and a block.

    Commands stand in blocks of their own, and in the cells of tables.
    """
    found, in_table = [], False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        in_table = (in_table or token.type == "table_open") and token.type != "table_close"
        if token.type == "fence" and token.info == "python":
            found.append(("python", token.content))
        elif token.type == "code_block" or (token.type == "fence" and token.info in ("bash", "sh")):
            found += [("shell", part.strip()) for line in token.content.splitlines() for part in line.split("&&")]
        elif token.type == "fence":
            assert token.info in OUTPUT, f"who runs a block of {token.info}?"
        elif token.type == "inline" and in_table:
            cells = [child.content for child in token.children if child.type == "code_inline"]
            found += [("shell", cell) for cell in cells if cell.startswith(("distill-hub ", "python "))]
    return [(kind, code) for kind, code in found if code]


def words_of(command: str) -> list[str] | None:
    """Return the words of a command, made small; None where it is tested elsewhere."""
    if any(part in command for part in ELSEWHERE):
        return None
    words = shlex.split(command, comments=True)
    if words[0] == "python":
        return [*words, *shlex.split(SMALLER[Path(words[1]).stem])]
    assert words[0] == "distill-hub", f"{command}: neither run here nor named in ELSEWHERE"
    if words[1] == "make" and len(words) > 2:
        return [*words, *shlex.split(SMALLER[words[2]])]
    return words


def test_what_the_readme_says_can_be_typed_line_by_line(hub, tmp_path):
    assert all((ROOT / place).exists() for place in ELSEWHERE.values())
    steps = [
        (kind, code if kind == "python" else words_of(code))
        for kind, code in typed((ROOT / "README.md").read_text(encoding="utf-8"))
    ]
    steps = [(kind, what) for kind, what in steps if what]
    assert {"python", "make", "push", "evaluate", "compare", "reproduce"} <= {
        kind if kind == "python" else what[1] for kind, what in steps
    }
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    photos(tmp_path / "path" / "to" / "photos")
    environment = {**hub.environment(tmp_path / "home", "hf_alice"), "PYTHONPATH": str(ROOT / "tests")}
    done = run_python(__file__, "steps.json", environment=environment, folder=tmp_path)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert hub.repos["org/digits-ipc1-dm"].head().files["README.md"]
    assert (tmp_path / "page.html").is_file() and (tmp_path / "my_method" / "pyproject.toml").is_file()


def photos(folder: Path) -> None:
    """Write twenty small pictures of each of two classes that a teacher tells apart at once."""
    import numpy as np
    import PIL.Image

    rng = np.random.default_rng(0)
    for name, darkest in (("night", 0), ("day", 128)):
        (folder / name).mkdir(parents=True)
        for i, pixels in enumerate(rng.integers(darkest, darkest + 128, (20, 16, 16, 3), dtype=np.uint8)):
            PIL.Image.fromarray(pixels).save(folder / name / f"{i}.png")


def follow(steps: list) -> None:
    """Take the steps one after another, in this process, which has imported everything after the first one."""
    from distill_hub.disk.lock import release_all
    from distill_hub.launching import reproduce

    reproduce._run = shell  # in a process of its own it would import everything again
    for kind, what in steps:
        print(f"\n$ {what if kind == 'python' else shlex.join(what)}", flush=True)
        if kind == "python":
            exec(what, {"__name__": "__main__"})
        else:
            shell(what)
        release_all()  # as at the end of a process


def shell(words: list[str]) -> None:
    """Run a command as its own process would; a code that is not 0 ends this one."""
    from distill_hub import cli

    program, *rest = words
    with contextlib.ExitStack() as end:
        end.callback(signal.signal, signal.SIGINT, signal.default_int_handler)  # ignored while a recipe ends
        end.enter_context(unittest.mock.patch.dict(os.environ))
        end.enter_context(unittest.mock.patch.object(sys, "argv", rest if program == "python" else words))
        try:
            runpy.run_path(rest[0], run_name="__main__") if program == "python" else cli.main()
        except SystemExit as ended:
            if ended.code:
                raise


if __name__ == "__main__":
    follow(json.loads(Path(sys.argv[1]).read_text()))
