"""Who sent a file, as the Hub tells it."""

import subprocess
import sys

SEND = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi
name, is_proposal = sys.argv[1], sys.argv[2] == "proposed"
api = HfApi()
if not is_proposal:
    api.create_repo("org/x", repo_type="dataset", exist_ok=True)
add = CommitOperationAdd(name, name.encode())
api.create_commit("org/x", [add], commit_message=name, repo_type="dataset", create_pr=is_proposal)
"""
ASK = """
from distill_hub.hub import last_authors, look
found = last_authors(look("org/x"), ["evaluations/a.json", "evaluations/b.json"])
print({name: sorted(who) for name, who in sorted(found.items())})
"""


def test_the_last_author_of_a_file_is_who_wrote_its_commit(hub, tmp_path):
    def run(code, *words, token=None):
        environment = hub.environment(tmp_path / str(token), token)
        command = [sys.executable, "-c", code, *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    run(SEND, "evaluations/a.json", "sent", token="hf_alice")
    run(SEND, "evaluations/b.json", "proposed", token="hf_bob")
    hub.merge("org/x", 1)
    run(SEND, "notes.md", "sent", token="hf_alice")
    assert run(ASK) == "{'evaluations/a.json': ['alice'], 'evaluations/b.json': ['alice', 'bob']}"
