"""Numbers and dates of a record: what cannot be is refused by its name."""

import json

import pytest

from distill_hub.artifact.find import find, read_description
from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.config import InputError


@pytest.fixture
def changed(artifact):
    """Change the record or the manifest of the small set, and read both."""

    def change(file, text=None, **fields):
        path = artifact / file if file else next((artifact / "evaluations").glob("*.json"))
        content = json.loads(path.read_bytes())
        path.write_text(text(json.dumps(content)) if text else json.dumps({**content, **fields}), "utf-8")
        with pytest.raises(InputError) as caught:
            read_description(find(artifact))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 600
        return str(caught.value)

    return change


@pytest.mark.parametrize("value", [-1.0, 1e11, "1", None])
def test_seconds_that_cannot_be(changed, value):
    assert ": seconds: " in changed("", seconds=value)


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "1e999"])
@pytest.mark.parametrize("field", ["mmd", "seconds"])
def test_numbers_that_are_not_finite(changed, field, raw):
    assert raw in changed("", lambda text: text.replace("{", f'{{"{field}": {raw}, ', 1))


def test_a_key_that_is_given_twice(changed):
    assert "'seconds' is given twice" in changed("", lambda text: text.replace('"seconds"', '"seconds": 1.0, "seconds"'))
    assert "'ipc' is given twice" in changed("manifest.json", lambda text: text.replace('"ipc"', '"ipc": 2, "ipc"'))


@pytest.mark.parametrize("date", ["2026-01-02T03:04:05", "2026-01-02", "yesterday", "0", "2026-13-01T00:00:00Z"])
def test_a_date_without_a_time_zone(changed, date):
    assert f"date: '{date}' cannot be used" in changed("", date=date)
    assert f"created: '{date}' cannot be used" in changed("manifest.json", created=date)


def test_a_seed_that_counts_twice(changed):
    assert "every seed counts once" in changed("", seeds=[0, 1, 1])


@pytest.mark.parametrize("key", ["x" * 100_000, "\x1b[2J\u202e"])
def test_a_key_of_a_stranger(changed, key):
    assert "cannot be used" in changed("", **{key: 1})
    assert "cannot be used" in changed("manifest.json", **{key: 1})


def test_what_is_no_plain_file_is_no_record(artifact):
    (artifact / "evaluations" / "folder.json").mkdir()
    _, records = read_description(find(artifact))
    assert len(records) == 1


def test_files_of_absurd_size_are_not_read(artifact):
    for file, most in ((artifact / "manifest.json", "20,000,000"), (artifact / "evaluations" / "a.json", "1,000,000")):
        content = file.read_bytes() if file.exists() else b""
        with file.open("wb") as sparse:
            sparse.truncate(50 * 10**9)
        with pytest.raises(InputError, match=f"at most {most}"):
            read_description(find(artifact))
        with pytest.raises(InputError, match="at most"):
            (Manifest if content else EvaluationRecord).read(file)
        file.write_bytes(content)
