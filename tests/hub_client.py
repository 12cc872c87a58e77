"""A user's process: calls the package's own functions, with the real clients, against whatever Hub its environment names.

One process answers many calls, so that a test need not load torch for each. `Client` is the test's end of it.
"""

import contextlib
import hashlib
import io
import json
import os
import socket
import sys
from pathlib import Path

import numpy as np
from processes import start_python


class Client:
    """A process with its own caches and token. Calls return what the function's result is as text, or the error."""

    program = __file__

    def __init__(self, hub, home: str | Path, token: str | None = None, **environment: str):
        self.environment = {**hub.environment(home, token), "DISTILL_HUB_CACHE": str(Path(home, "fits")), **environment}
        self.start()

    def start(self) -> None:
        here, there = socket.socketpair()
        with here, there:
            self.process = start_python([self.program], (there, there), self.environment)
            self.stream = here.makefile("rw")

    def call(self, name: str, *args, **kwargs) -> dict:
        """Return {"result": ...}, or {"error": class, "message": ..., "traceback": ...}; {} when the process died."""
        if not self.process.is_alive():
            self.start()
        self.stream.write(json.dumps([name, args, kwargs]) + "\n")
        self.stream.flush()
        return json.loads(self.stream.readline() or "{}")

    def result(self, name: str, *args, **kwargs):
        """Call what must succeed."""
        answer = self.call(name, *args, **kwargs)
        assert "result" in answer, answer
        return answer["result"]

    def refusal(self, name: str, *args, **kwargs) -> str:
        """Call what must be refused in one line, and return the line."""
        answer = self.call(name, *args, **kwargs)
        assert answer.get("error") in ("InputError", "HubError"), answer
        assert "\n" not in answer["message"]
        return answer["message"]

    def stop(self) -> None:
        self.stream.close()
        self.process.join()


def content_sha256(rows) -> str:
    """Hash loaded rows as cards/FORMAT.md says."""
    digest = hashlib.sha256()
    for row in rows:
        pixels = np.asarray(row["image"].convert("RGB"))
        digest.update(np.array(pixels.shape[:2], dtype="<i8").tobytes() + pixels.tobytes())
        digest.update(np.array(row["label"], dtype="<i8").tobytes() + np.array(row["soft_label"], dtype="<f4").tobytes())
    return digest.hexdigest()


def push(*args, **kwargs):
    from distill_hub import push

    publication = push(*args, **kwargs)
    return {"commit": publication.commit, "url": publication.url, "private": publication.private}


def load(*args, **kwargs):
    from distill_hub import load_distilled

    loaded = load_distilled(*args, **kwargs)
    return {
        "content": content_sha256(loaded.dataset),
        "path": str(loaded.path),
        "revision": loaded.revision,
        "submitted_by": [record.submitted_by for record in loaded.evaluations],
    }


def views(location):
    """Open stored views; return their hash and the batches of the first epoch."""
    from distill_hub.artifact.find import find, read_description
    from distill_hub.views.files import open_views

    found = find(location)
    stored = open_views(found, read_description(found)[0])
    batches = [
        {name: values.tolist() for name, values in batch.items()}
        for batch in map(stored.batch, range(stored.record.per_epoch(stored.images)))
    ]
    return {"sha256": stored.record.sha256, "first_epoch": batches}


def submit(repo_id, folder, **other):
    """Submit the author's own record again, as someone else's measurement, some of its fields changed."""
    from distill_hub.artifact.load import load_artifact
    from distill_hub.publishing.destination import check_destination
    from distill_hub.publishing.publish import submit

    artifact = load_artifact(folder)
    destination = check_destination(repo_id, artifact.manifest.name, create_pr=True)
    fields = [{**json.loads(record.to_json()), **other} for record in artifact.evaluations]
    records = [type(own).model_validate_json(json.dumps(f)) for own, f in zip(artifact.evaluations, fields, strict=True)]
    publication = submit(destination, artifact.manifest, records)
    return {"commit": publication.commit, "url": publication.url}


def evaluate(*args, **kwargs):
    from distill_hub import evaluate

    return [
        {
            "measured": pair.measured.score.last,
            "baselines": {name: score.last for name, score in pair.measured.baselines.items()},
            "claimed": pair.claimed and pair.claimed.score.last,
            "agrees": pair.agrees,
        }
        for pair in evaluate(*args, **kwargs)
    ]


def adopt(output_dir, **kwargs):
    from distill_hub.commands.adopt import run as adopt
    from distill_hub.options.commands import AdoptConfig

    return str(adopt(AdoptConfig(output_dir=Path(output_dir), **kwargs)))


def log_in(token):
    """Be somebody else from now on: the client reads its token at each call."""
    os.environ["HF_TOKEN"] = token


def command(*words):
    """Run `distill-hub`; return its exit code, and what it wrote to the standard output and error."""
    from distill_hub.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = ["distill-hub", *words]
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def serve() -> None:
    import traceback
    from types import SimpleNamespace

    import tenacity.nap

    tenacity.nap.time = SimpleNamespace(sleep=lambda seconds: None)  # between attempts; how long it waits is no matter here
    answers, sys.stdout = sys.stdout, sys.stderr  # what the package prints is not an answer
    for line in sys.stdin:
        name, args, kwargs = json.loads(line)
        try:
            answer = {"result": globals()[name](*args, **kwargs)}
        except Exception as error:  # the test looks at it
            answer = {"error": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
