"""Make distilled sets, publish them, look at them, compare them, and score them again.

commands:
  make         make a set with one of the recipes, in one process or several
  info         what a set says of itself, without downloading its images
  compare      sets side by side, by what is on record: accuracy, size, cost
  search       what sets are on the Hugging Face Hub
  leaderboard  all of them, or some, as one page, which may be a Space on the Hub
  evaluate     train students on a set, and compare with what its author claims
  reproduce    rebuild a set from its manifest, and say whether it is the same, or where it first differs
  relabel      store augmented views of a set with a teacher's logits, for training without the teacher
  push         publish a set, or a network that was made for one, on the Hugging Face Hub
  adopt        bring a set that was made elsewhere into the artifact format
  new-method   start a package with a method of your own
  env          what a bug report needs: versions, machine, folders, settings of the Hub

`distill-hub --version` prints the version.

`distill-hub COMMAND --help` has examples and options. A distilled set is named by its folder or by its id on the Hub.

exit codes, also of the recipes:
  0    done; with `evaluate --check`, the scores agree; with `reproduce`, the set is identical
  1    they do not, the Hub or the network failed, or something failed that should not
  2    what was asked for cannot be done; one line says why
  130  interrupted by Ctrl-C; the same command goes on, as after any other signal N, 128 + N: 143 for SIGTERM
"""

import atexit
import importlib
import os
import sys

import distill_hub
from distill_hub.text import adapt_streams

# `run` of the file of that name in distill_hub/commands, whose docstring is its --help, and its settings: a class of
# `options.commands`, unless another file is named. Both are imported by `main`: what is imported here cannot be interrupted
# without a traceback.
COMMANDS = {
    "info": "InfoConfig",
    "compare": "CompareConfig",
    "search": "boards.SearchConfig",
    "leaderboard": "boards.LeaderboardConfig",
    "evaluate": "EvaluateConfig",
    "reproduce": "ReproduceConfig",
    "relabel": "RelabelConfig",
    "push": "PushConfig",
    "adopt": "AdoptConfig",
    "new-method": "NewMethodConfig",
    "env": "EnvConfig",
}


def settings_of(command: str) -> type:
    """Return the class of a command's settings."""
    file, _, name = COMMANDS[command].rpartition(".")
    return getattr(importlib.import_module(f"distill_hub.options.{file or 'commands'}"), name)


def main() -> None:
    """Run a command of `distill-hub` by the words of the command line."""
    adapt_streams()
    from distill_hub.config import InputError, launch, nearest
    from distill_hub.ending import fail

    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: distill-hub COMMAND ...\n\n{__doc__}")
        return
    if name == "--version":
        print(f"distill-hub {distill_hub.__version__}")
        return
    if name == "make":
        from distill_hub.launching.launcher import make_command

        make_command(words)
        return
    if name not in COMMANDS:
        known = ["make", *COMMANDS]
        error = InputError("command", name, f"known: {', '.join(known)}{nearest(name, known)}")
        sys.exit(fail(str(error)))
    # Read when `datasets` is loaded. Its bars for copying rows of a source to its cache say nothing of what was asked for.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    run = importlib.import_module(f"distill_hub.commands.{name.replace('-', '_')}").run
    launch(run, settings_of(name), run.__doc__, words, light=True, prog=f"distill-hub {name}")


def command() -> None:
    """Be the command `distill-hub`: `main`, and an end as soon as all is written.

    Taking Python and PyTorch down in order takes a third of a short command's time, and serves nobody.
    """
    code = 1  # of what nobody foresaw; Python prints its traceback
    # What is registered first is called last: threads have ended by then, and temporary files and child processes are gone.
    atexit.register(lambda: _end(code))
    try:
        main()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        raise
    except KeyboardInterrupt:  # before or after `launch`, which has its own
        from distill_hub.ending import interrupted

        code = interrupted()
    except BrokenPipeError:
        pass  # nobody reads the output any more, as behind `| head`; broken connections have errors of their own
    except OSError as error:
        from distill_hub.ending import fail, of_the_machine

        if (line := of_the_machine(error)) is None:
            raise
        code = fail(line)


def _end(code: int) -> None:
    from distill_hub.ending import drop, fail

    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = 1
    except OSError as error:
        code = code or fail(f"output: it cannot be written ({error.strerror})")
    drop(sys.stderr)
    os._exit(code)


if __name__ == "__main__":
    command()
