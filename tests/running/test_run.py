import errno
import hashlib
import json
import os
import time
import uuid
from itertools import permutations, product
from pathlib import Path

import pytest
import torch
from processes import end_process, start_processes
from safetensors.torch import load_file

import distill_hub.running.run
import distill_hub.running.stages
from distill_hub.config import InputError
from distill_hub.disk.files import atomic_write
from distill_hub.running.run import Run, Stage
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.running.session import working_in
from distill_hub.running.versions import versions

# atomic_write


def test_atomic_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    atomic_write(path, b"old")
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_one(tmp_path, monkeypatch, step):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    atomic_write(path, b"old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError) as caught:
        atomic_write(path, b"new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_the_file_is_complete_on_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(a.read_bytes()), replace(a, b)))
    atomic_write(tmp_path / "file", b"data")
    assert events == ["fsync", b"data"]


# draw_seed


def test_draw_seed_is_this_number_for_ever():
    # printf "(0, 'pool', 3)" | sha256sum: 2a75fe82ccc71434...; 8 bytes, little-endian, shifted right by one bit
    assert draw_seed(0, "pool", 3) == 0x3414C7CC82FE752A >> 1


def test_draw_seed_depends_on_every_part_and_fits_a_generator():
    keys = [*product((0, 1), ("pool", "refine"), (0, 1, "1"), (0, 1)), (0,), (0, "pool"), ("pool", 0), (0, "pool1", 0)]
    seeds = {draw_seed(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Half of them have the top bit of the range set: it is used.
    assert 0.25 < sum(seed >= 2**62 for seed in seeds) / len(seeds) < 0.75
    assert len({float(torch.rand((), generator=cpu_generator(seed))) for seed in seeds}) == len(keys)


# Stage


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "out", {"seed": 0})


WHOLE = torch.arange(7 * 2 * 3).reshape(7, 2, 3).float()


def numbered(chunk):
    return {"x": torch.stack([WHOLE[item] for item in chunk]), "id": torch.tensor(chunk), "half": WHOLE[chunk].half()}


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 100])
def test_rows_across_chunk_borders_equal_slices_of_the_whole(run, chunk_size):
    stage = run.map("stage", range(7), lambda chunk: numbered(list(chunk)), chunk_size=chunk_size)
    assert len(stage) == 7
    for start, stop in [(a, b) for a in range(7) for b in range(a + 1, 8)]:
        rows = stage.rows(start, stop)
        assert rows.keys() == {"x", "id", "half"}
        assert torch.equal(rows["x"], WHOLE[start:stop]) and rows["id"].tolist() == list(range(start, stop))
        assert rows["half"].dtype == torch.float16


def test_rows_by_name_read_nothing_else(run):
    stage = run.map("stage", range(7), lambda chunk: numbered(list(chunk)), chunk_size=2)
    assert stage.rows(1, 6, "id").keys() == {"id"}
    assert stage.rows(1, 6, "id", "half").keys() == {"id", "half"}
    assert stage.rows(3, 4, "id")["id"].tolist() == [3]


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
def test_items_are_taken_in_any_order_and_every_chunk_is_opened_once(run, chunk_size, monkeypatch):
    stage = run.map("stage", range(7), lambda chunk: numbered(list(chunk)), chunk_size=chunk_size)
    opened, real = [], distill_hub.running.stages.safe_open
    monkeypatch.setattr(distill_hub.running.stages, "safe_open", lambda file, kind: opened.append(file) or real(file, kind))
    for items in ([6, 0, 3], [2, 2, 5, 2], [4], range(1, 6), list(permutations(range(4)))[17]):
        opened.clear()
        taken = stage.take(items, "x", "half")
        assert taken.keys() == {"x", "half"}
        assert torch.equal(taken["x"], WHOLE[list(items)]) and torch.equal(taken["half"], WHOLE[list(items)].half())
        assert len(opened) == len({item // chunk_size for item in items})


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_batches_are_the_whole_in_parts(run, size):
    stage = run.map("stage", range(7), lambda chunk: numbered(list(chunk)), chunk_size=2)
    parts = list(stage.batches("id", size=size))
    assert [len(part["id"]) for part in parts] == [min(size, 7 - start) for start in range(0, 7, size)]
    assert torch.cat([part["id"] for part in parts]).tolist() == list(range(7))
    assert next(stage.batches()).keys() == {"x", "id", "half"}


# Run.map


class Counting:
    """Squares its items and remembers its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, chunk):
        self.calls.append(list(chunk))
        return {"square": torch.tensor([item**2 for item in chunk])}


ITEMS = [5, 3, 9, 1, 4, 8, 2]
SQUARES = [25, 9, 81, 1, 16, 64, 4]


def mapped(out, **kwargs):
    """Map again, as a new run of the same command; return the results and the chunks that were computed."""
    function = Counting()
    run = Run(out, {"seed": 0}, **kwargs)
    stage = run.map("stage", ITEMS, function, chunk_size=2)
    return stage.rows(0, 7)["square"].tolist(), function.calls, run


def test_results_stand_in_the_order_of_the_items(tmp_path):
    result, calls, run = mapped(tmp_path)
    assert result == SQUARES and calls == [[5, 3], [9, 1], [4, 8], [2]]
    assert [(s["name"], s["items"], s["reused"]) for s in run.stages] == [("stage", 7, False)]
    run.summary()


def test_what_is_finished_is_not_done_again(tmp_path):
    mapped(tmp_path)
    result, calls, run = mapped(tmp_path)
    assert result == SQUARES and calls == [] and run.stages[0]["reused"]


def test_an_interrupted_run_loses_only_the_chunk_at_work(tmp_path):
    class Power(Exception):
        pass

    def fail_at_third(chunk):
        if 4 in chunk:
            raise Power
        return {"square": torch.tensor([item**2 for item in chunk])}

    with pytest.raises(Power):
        Run(tmp_path, {"seed": 0}).map("stage", ITEMS, fail_at_third, chunk_size=2)
    result, calls, _ = mapped(tmp_path)
    assert result == SQUARES and calls == [[4, 8], [2]]


def chunk_file(out, index, suffix=".safetensors"):
    return out / ".run" / "stage" / f"{index:06d}{suffix}"


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def bit_of(path, text):
    """Flip the lowest bit of the first character of a text in a file."""
    data = bytearray(path.read_bytes())
    data[data.index(text)] ^= 1
    path.write_bytes(data)


def json_of(out):
    return json.loads(chunk_file(out, 1, ".json").read_bytes())


DAMAGE = {
    "one bit": lambda out: flip(chunk_file(out, 1)),
    "truncated": lambda out: chunk_file(out, 1).write_bytes(chunk_file(out, 1).read_bytes()[:-5]),
    "empty": lambda out: chunk_file(out, 1).write_bytes(b""),
    "no chunk": lambda out: chunk_file(out, 1).unlink(),
    "no marker": lambda out: chunk_file(out, 1, ".json").unlink(),
    "empty marker": lambda out: chunk_file(out, 1, ".json").write_bytes(b""),
    "a bit of the marker's text": lambda out: bit_of(chunk_file(out, 1, ".json"), b"sha256"),
    "a bit of the marker's time": lambda out: bit_of(chunk_file(out, 1, ".json"), b"seconds"),
    "a bit of the marker's hash": lambda out: bit_of(chunk_file(out, 1, ".json"), json_of(out)["sha256"].encode()),
    "no longer UTF-8": lambda out: chunk_file(out, 1, ".json").write_bytes(b"\xff" + json.dumps(json_of(out)).encode()),
    "a marker of something else": lambda out: chunk_file(out, 1, ".json").write_bytes(b"[1]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_chunk_is_redone_and_no_other(tmp_path, damage):
    mapped(tmp_path)
    before = chunk_file(tmp_path, 1).read_bytes()
    DAMAGE[damage](tmp_path)
    result, calls, _ = mapped(tmp_path)
    assert result == SQUARES and calls == [[9, 1]]
    assert chunk_file(tmp_path, 1).read_bytes() == before


def test_a_chunk_of_another_number_of_items_is_redone_however_whole_it_is(tmp_path):
    """A local source that has grown, for example: the last chunk of before ends too early."""
    short = Run(tmp_path, {"seed": 0}).map("stage", ITEMS[:5], Counting(), chunk_size=2)
    assert short.rows(0, 5)["square"].tolist() == SQUARES[:5]
    result, calls, _ = mapped(tmp_path)
    assert result == SQUARES and calls == [[4, 8], [2]]


def test_a_chunk_damaged_while_a_later_stage_was_at_work_is_redone_and_the_later_chunks_stay(tmp_path):
    def later(chunk):
        if 4 in chunk:
            raise KeyboardInterrupt
        return {"square": torch.tensor([item**2 for item in chunk])}

    with pytest.raises(KeyboardInterrupt):
        mapped(tmp_path)[2].map("later", ITEMS, later, chunk_size=2)
    flip(chunk_file(tmp_path, 0))
    result, calls, run = mapped(tmp_path)
    assert result == SQUARES and calls == [[5, 3]]
    rest = Counting()
    assert run.map("later", ITEMS, rest, chunk_size=2).rows(0, 7)["square"].tolist() == SQUARES
    assert rest.calls == [[4, 8], [2]]


def test_a_chunk_counts_only_when_its_marker_is_written_after_it(tmp_path, monkeypatch):
    replace, written = os.replace, []
    monkeypatch.setattr(os, "replace", lambda a, b: (written.append(b.name), replace(a, b)))
    mapped(tmp_path)
    names = [f"{index:06d}{suffix}" for index in range(4) for suffix in (".safetensors", ".json")]
    assert written == ["config.json", *names]


def test_temporary_files_of_an_attempt_that_was_cut_short_are_swept(tmp_path):
    mapped(tmp_path)
    (tmp_path / "assets").mkdir()
    names = ".run/.config.json.node1.1.tmp", ".run/stage/.000001.safetensors.node1.99.tmp", "assets/.preview.png.node1.1.tmp"
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    mapped(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_function_that_returns_the_wrong_number_of_rows_is_refused(run, rows):
    with pytest.raises(ValueError, match="stage"):
        run.map("stage", ITEMS, lambda chunk: {"a": torch.zeros(len(chunk)), "b": torch.zeros(rows)}, chunk_size=2)
    assert not list(run.output_dir.rglob("*.safetensors"))


def test_results_need_not_be_contiguous_or_detached(run):
    weight = torch.ones(3, 2, requires_grad=True)
    stage = run.map("stage", [1, 2], lambda chunk: {"x": (weight * 2).T}, chunk_size=2)
    assert torch.equal(stage.rows(0, 2)["x"], torch.full((2, 3), 2.0))


def test_on_main_leaves_out_what_is_done(run):
    made = run.output_dir / "made"
    run.on_main("fit", lambda: made.write_text("model"), makes=made)
    run.on_main("fit", lambda: pytest.fail("it was done"), makes=made)
    assert [stage["name"] for stage in run.stages] == ["fit"]


def test_what_an_earlier_attempt_made_elsewhere_stays_a_stage_of_the_run(tmp_path):
    def attempt(folder, makes):
        own = Run(tmp_path / folder, {"seed": 0})
        own.on_main("fit", lambda: makes.write_text("model"), makes=makes)
        own.end()
        return [(stage["name"], stage["reused"], stage["seconds"] >= 0) for stage in own.stages]

    model, other = tmp_path / "model", tmp_path / "other"
    assert attempt("a", model) == [("fit", False, True)]
    assert attempt("a", model) == attempt("a", model) == [("fit", True, True)]
    assert attempt("b", model) == []  # another run made it
    other.write_text("model")
    assert attempt("a", other) == []  # made from others by somebody else


def test_on_main_calls_once_and_restores_the_threads(run):
    threads, calls = torch.get_num_threads(), []
    run.on_main("fit", lambda: calls.append(1))
    assert calls == [1] and torch.get_num_threads() == threads and run.stages[-1]["name"] == "fit"


# The output folder


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def without_lock(folder):
    """A refused run lets go of the folder; so does the one whose lock it took over in the same process."""
    return {name: content for name, content in tree(folder).items() if Path(name).name != "lock"}


def start(folder, settings):
    """Start a run and finish a chunk of it: from then on the folder belongs to these settings."""
    Run(folder, settings).map("stage", [0], lambda chunk: {"x": torch.zeros(len(chunk))}, chunk_size=1)


def test_settings_may_change_while_nothing_is_finished(tmp_path):
    Run(tmp_path, {"generator": "misspelt"})
    Run(tmp_path, {"generator": "right"})
    assert json.loads((tmp_path / ".run" / "config.json").read_bytes())["generator"] == "right"


def test_a_finished_set_of_other_settings_is_refused_with_both_values(tmp_path):
    out = tmp_path / "out"
    start(out, {"ipc": 10, "seed": 0})
    (out / "manifest.json").write_text("{}")
    before = without_lock(out)
    with pytest.raises(InputError) as caught:
        Run(out, {"ipc": 50, "seed": 0})
    assert caught.value.field == "ipc"
    assert all(part in str(caught.value) for part in ("10", "50", str(out), "--overwrite"))
    assert without_lock(out) == before


def test_an_unfinished_run_goes_on_with_other_settings_and_says_which(tmp_path, capsys):
    start(tmp_path, {"ipc": 10, "seed": 0, "order": "auto"})
    Run(tmp_path, {"ipc": 50, "seed": 0, "order": "random"})
    told = " ".join(capsys.readouterr().out.split())
    assert "other settings: ipc (10 before, 50 now), order (auto before, random now); what depends on them" in told
    assert json.loads((tmp_path / ".run" / "config.json").read_bytes())["ipc"] == 50


def test_other_images_are_said_in_words(tmp_path, capsys):
    """Nobody can type a fingerprint: one photo was exchanged, or another share is held out."""
    made = {"source": "photos", "source_fingerprint": "aa", "test_fingerprint": "bb", "test_fraction": 0.2}
    start(tmp_path / "a", made)
    Run(tmp_path / "a", {**made, "source_fingerprint": "cc"})
    assert "with other settings: other training images; what depends" in " ".join(capsys.readouterr().out.split())
    start(tmp_path / "b", made)
    (tmp_path / "b" / "manifest.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"^source: 'photos' .* its test images are not those that .* removed or changed;"
    ) as caught:
        Run(tmp_path / "b", {**made, "test_fingerprint": "cc"})
    assert "cc" not in str(caught.value) and "--overwrite" in str(caught.value)
    with pytest.raises(InputError, match=r"^test_fraction: 0\.5 .* made with 0\.2"):
        Run(tmp_path / "b", {**made, "source_fingerprint": "cc", "test_fingerprint": "cc", "test_fraction": 0.5})


def test_another_method_of_the_same_options_is_another_recipe(tmp_path):
    start(tmp_path, {"method": "herding"})
    with pytest.raises(InputError, match=r"^output_dir: .* another recipe: herding, not kcenter; --overwrite"):
        Run(tmp_path, {"method": "kcenter"})


@pytest.mark.parametrize("settings", [{"ipc": 10}, {"ipc": 10, "seed": 0, "order": "auto"}])
def test_a_folder_of_other_options_is_refused_with_what_helps(tmp_path, settings):
    """No value would do: the option is new, or gone."""
    out = tmp_path / "out"
    start(out, {"ipc": 10, "seed": 0})
    before = without_lock(out)
    with pytest.raises(InputError, match=r"another version.*--overwrite or another --output_dir") as caught:
        Run(out, settings)
    assert caught.value.field == "output_dir" and "use that value" not in str(caught.value)
    (other,) = settings.keys() ^ {"ipc", "seed"}
    # The refused run has let go of the folder, as has the one whose lock it took over.
    assert other in str(caught.value) and tree(out) == {
        name: data for name, data in before.items() if "lock" not in str(name)
    }


@pytest.mark.parametrize(("first", "second"), [({"a": 1, "b": 2}, {"a": 1}), ({"a": 1}, {"a": 1, "b": 2})])
def test_a_setting_that_came_or_went_is_another_setting(tmp_path, first, second):
    start(tmp_path / "out", first)
    with pytest.raises(InputError, match=r"^output_dir: .*: b is not an option of both; --overwrite"):
        Run(tmp_path / "out", second)


def test_settings_that_json_changes_are_still_the_same_settings(tmp_path):
    for _ in range(2):
        start(tmp_path / "out", {"path": tmp_path, "pair": (1, 2), "scale": 1e-5, "none": None})


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_foreign_files_is_refused_and_left_alone(tmp_path, overwrite):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "thesis.txt").write_text("years of work")
    before = tree(tmp_path)
    with pytest.raises(InputError) as caught:
        Run(tmp_path, {"seed": 0}, overwrite=overwrite)
    assert caught.value.field == "output_dir" and str(tmp_path) in str(caught.value)
    assert tree(tmp_path) == before and os.listdir(tmp_path) == ["photos"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_no_output_folder(tmp_path, overwrite):
    path = tmp_path / "file"
    path.write_text("text")
    with pytest.raises(InputError) as caught:
        Run(path, {"seed": 0}, overwrite=overwrite)
    assert caught.value.field == "output_dir" and path.read_text() == "text"


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_will_do(tmp_path, overwrite):
    assert mapped(tmp_path, overwrite=overwrite)[0] == SQUARES


def test_overwrite_replaces_the_set_and_redoes_what_does_not_fit(tmp_path):
    Run(tmp_path, {"seed": 1}).map("stage", ITEMS, lambda chunk: {"square": torch.zeros(len(chunk))}, chunk_size=2)
    (tmp_path / "README.md").write_text("the card of the old set")
    (tmp_path / ".run" / "fit").mkdir()
    result, calls, _ = mapped(tmp_path, overwrite=True)
    assert result == SQUARES and len(calls) == 4 and os.listdir(tmp_path) == [".run"]
    assert json.loads((tmp_path / ".run" / "config.json").read_bytes())["seed"] == 0
    assert sorted(os.listdir(tmp_path / ".run")) == ["config.json", "lock", "stage"]


def test_overwrite_keeps_what_still_fits(tmp_path):
    mapped(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    result, calls, _ = mapped(tmp_path, overwrite=True)
    assert result == SQUARES and calls == [] and not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("name", ["data", "README.md", ".run", ".run/stage", ".run/config.json"])
def test_overwrite_unlinks_links_and_follows_none(tmp_path, name):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    mapped(out)[2].end()
    (out / "data").mkdir()
    for file in ("data/train.parquet", "README.md", "manifest.json"):
        (out / file).write_text("old")
    os.rename(out / name, elsewhere)
    (out / name).symlink_to(elsewhere)
    before = tree(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()
    result, _, run = mapped(out, overwrite=True)
    run.end()
    assert result == SQUARES and os.listdir(out) == [".run"] and not (out / ".run").is_symlink()
    assert (tree(elsewhere) if elsewhere.is_dir() else elsewhere.read_bytes()) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["data", "views", "evaluations", "assets", "manifest.json", "README.md", ".run/lock"])
def test_a_folder_where_a_file_should_be_or_the_other_way_round_is_refused_untouched(tmp_path, name, overwrite):
    out = tmp_path / "out"
    mapped(out)[2].end()
    (out / name).mkdir() if "." in name else (out / name).write_text("x")
    (out / "thesis.txt").write_text("years of work")
    before = tree(out)
    with pytest.raises(InputError, match=r"^output_dir: "):
        Run(out, {"seed": 0}, overwrite=overwrite)
    assert tree(out) == before


# What finished work is made from


def chain(out, **settings):
    """Run two stages, of which the second reads the first; return which chunks of each were worked on."""
    defaults = {"draw": 1, "refine": 1, "students": "a", "size": 2}
    config = {**defaults, **settings}
    run, first, second = Run(out, config), Counting(), Counting()
    pool = run.map("pool", ITEMS, first, chunk_size=2, made_from={"draw": config["draw"]})
    made_from = {"pool": pool.sha256, "refine": config["refine"]}
    run.map("refine", ITEMS, second, chunk_size=config["size"], made_from=made_from)
    run.end()
    return len(first.calls), len(second.calls)


@pytest.mark.parametrize(
    ("changed", "worked"),
    [
        ({}, (0, 0)),
        ({"students": "b"}, (0, 0)),
        ({"refine": 2}, (0, 4)),
        ({"size": 4}, (0, 2)),
        ({"draw": 2}, (4, 0)),  # it comes out as before: what reads it stays
    ],
)
def test_what_does_not_depend_on_a_changed_setting_is_kept(tmp_path, changed, worked):
    assert chain(tmp_path) == (4, 4)
    assert chain(tmp_path, **changed) == worked
    assert chain(tmp_path, **changed) == (0, 0)
    assert sorted(os.listdir(tmp_path / ".run")) == ["config.json", "pool", "refine"]
    assert len(list((tmp_path / ".run" / "refine").glob("*.json"))) == (2 if "size" in changed else 4)


def test_what_reads_a_stage_is_redone_when_that_comes_out_differently(tmp_path):
    chain(tmp_path)
    run = Run(tmp_path, {"draw": 3, "refine": 1, "students": "a", "size": 2})
    pool = run.map("pool", ITEMS, lambda chunk: {"square": torch.zeros(len(chunk))}, chunk_size=2, made_from={"draw": 3})
    second = Counting()
    run.map("refine", ITEMS, second, chunk_size=2, made_from={"pool": pool.sha256, "refine": 1})
    assert len(second.calls) == 4


@pytest.mark.parametrize("what", ["torch", "pillow", "distill-hub"])
def test_another_version_of_a_library_is_noticed_and_named(tmp_path, monkeypatch, capsys, what):
    mapped(tmp_path)
    now = {**versions(), what: "99.0"}
    monkeypatch.setattr(distill_hub.running.run, "versions", lambda: now)
    result, calls, _ = mapped(tmp_path)
    assert result == SQUARES and len(calls) == 4
    told = " ".join(capsys.readouterr().out.split())
    assert f"version of {what} ({versions()[what]} before, 99.0 now)" in told
    assert "stage: what it is made from has changed" in told


def test_a_finished_set_of_another_version_is_not_replaced_unasked(tmp_path, monkeypatch):
    mapped(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(distill_hub.running.run, "versions", lambda: {**versions(), "torch": "99.0"})
    with pytest.raises(InputError, match=r"^version of torch: '99.0' .* --overwrite"):
        mapped(tmp_path)


def test_stages_that_a_run_has_no_more_go_at_its_end(tmp_path):
    mapped(tmp_path)
    run = Run(tmp_path, {"seed": 0})
    run.map("other", ITEMS, Counting(), chunk_size=2)
    (run.state("tuned") / "done").touch()
    assert (tmp_path / ".run" / "stage").is_dir()
    run.end()
    assert sorted(os.listdir(tmp_path / ".run")) == ["config.json", "other", "tuned"]


def test_the_state_of_a_loop_is_dropped_when_it_was_made_from_others(tmp_path):
    (Run(tmp_path, {"seed": 0}).state("fit") / "checkpoint").touch()
    assert (Run(tmp_path, {"seed": 0}).state("fit") / "checkpoint").exists()
    assert os.listdir(Run(tmp_path, {"seed": 1}).state("fit")) == ["key"]


def test_a_list_of_items_that_cannot_be_named_is_refused(run):
    with pytest.raises(TypeError):
        run.map("stage", [object()], lambda chunk: {"x": torch.zeros(1)}, chunk_size=1)


# Memory


class Small:
    """Has memory for a few items at a time."""

    def __init__(self, most, error):
        self.most, self.error, self.sizes = most, error, []

    def __call__(self, chunk):
        self.sizes.append(len(chunk))
        if len(chunk) > self.most:
            raise self.error
        return {"square": torch.tensor([item**2 for item in chunk])}


CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried ...")
USED_UP = [torch.OutOfMemoryError("CUDA out of memory."), MemoryError(), CPU]


@pytest.mark.parametrize("error", USED_UP, ids=lambda error: type(error).__name__)
def test_a_chunk_that_does_not_fit_into_memory_is_worked_on_in_parts_and_so_are_those_after_it(tmp_path, error):
    run, small = Run(tmp_path, {}), Small(2, error)
    stage = run.map("stage", list(range(12)), small, chunk_size=5)
    assert stage.rows(0, 12)["square"].tolist() == [item**2 for item in range(12)]
    assert small.sizes == [5, 3, 2, 2, 1, 2, 2, 1, 2]
    assert run.stages[0]["at_a_time"] == 2
    marker = json.loads((tmp_path / ".run" / "stage" / "000000.json").read_bytes())
    assert (marker["items"], marker["at_a_time"]) == (5, 2)
    (tmp_path / ".run" / "stage" / "000001.json").unlink()
    again = Small(2, error)
    run = Run(tmp_path, {})
    run.map("stage", list(range(12)), again, chunk_size=5)
    assert again.sizes == [2, 2, 1] and run.stages[0]["at_a_time"] == 2  # a resumed run knows


def test_where_memory_suffices_nothing_is_noted(run):
    run.map("stage", ITEMS, Small(2, MemoryError()), chunk_size=2)
    assert run.stages[0]["at_a_time"] is None


def test_an_item_that_does_not_fit_is_one_line_that_says_what_to_lower(run):
    small = Small(0, MemoryError())
    with pytest.raises(InputError, match=r"^stage: 'pool' .* not enough memory for it; a smaller --x needs less; finished"):
        run.map("pool", ITEMS, small, chunk_size=4, lower="a smaller --x")
    assert small.sizes == [4, 2, 1]


def test_items_that_belong_together_are_not_parted(run):
    small = Small(2, MemoryError())
    with pytest.raises(InputError, match="not enough memory"):
        run.map("recover", ITEMS, small, chunk_size=4, whole=True)
    assert small.sizes == [4]


@pytest.mark.parametrize("how", ["on_main", "together"])
def test_loops_say_what_to_lower_too(run, how):
    def fail():
        raise CPU

    with pytest.raises(InputError, match="a smaller --batch_size needs less"):
        if how == "on_main":
            run.on_main("fit", fail, lower="a smaller --batch_size")
        else:
            run.together("fit", 1, fail, lower="a smaller --batch_size")


def test_other_errors_are_not_taken_for_want_of_memory(run):
    with pytest.raises(RuntimeError, match="shape"):
        run.map("stage", ITEMS, Small(0, RuntimeError("shape '[2]' is invalid")), chunk_size=4)


# Starting again


def test_a_run_stopped_by_a_full_disk_at_its_first_file_can_be_run_again(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full, pytest.raises(OSError, match="No space left"):
        full.setattr(os, "fsync", fail)
        Run(tmp_path / "out", {"seed": 0})
    assert mapped(tmp_path / "out")[0] == SQUARES


def test_a_run_killed_at_its_first_file_can_be_run_again(tmp_path):
    (tmp_path / "out" / ".run").mkdir(parents=True)
    (tmp_path / "out" / ".run" / ".config.json.node1.123.tmp").write_bytes(b"{")
    assert mapped(tmp_path / "out")[0] == SQUARES


def test_a_broken_config_of_the_folder_is_an_input_error(tmp_path):
    start(tmp_path, {"seed": 0})
    (tmp_path / ".run" / "config.json").write_bytes(b"{")
    with pytest.raises(InputError) as caught:
        Run(tmp_path, {"seed": 0})
    assert caught.value.field == "output_dir"


# Several processes


def noise_and_log(out, log):
    def noise(chunk):
        (log / f"{chunk[0]}-{run.accelerator.process_index}-{uuid.uuid4().hex}").touch()
        while run.accelerator.process_index and len(list(log.glob("*-0-*"))) < 3:  # the first one is done with the others
            time.sleep(0.01)
        return {"noise": torch.stack([torch.randn(4, 4, generator=cpu_generator(draw_seed(0, "noise", i))) for i in chunk])}

    run = Run(out, {"seed": 0})
    stage = run.map("stage", range(7), noise, chunk_size=2)
    assert stage.rows(0, 7)["noise"].shape == (7, 4, 4)  # every process sees everything
    run.on_main("once", lambda: (log / f"main-{uuid.uuid4().hex}").touch())
    (log / f"world-{run.accelerator.process_index}-{run.accelerator.num_processes}").touch()
    run.end()


def test_two_processes_make_what_one_makes(tmp_path):
    chunks, logs = {}, {}
    for name, world in {"one": 1, "two": 2}.items():
        (tmp_path / f"log-{name}").mkdir()
        processes, files = start_processes(
            tmp_path / "log", noise_and_log, tmp_path / name, tmp_path / f"log-{name}", world=world
        )
        assert [end_process(process) for process in processes] == [0] * world, [file.read_text() for file in files]
        stage = tmp_path / name / ".run" / "stage"
        chunks[name] = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in stage.glob("*.safetensors")}
        logs[name] = sorted(p.name.rsplit("-", 1)[0] for p in (tmp_path / f"log-{name}").iterdir())
    assert list(load_file(tmp_path / "two" / ".run" / "stage" / "000003.safetensors")["noise"].shape) == [1, 4, 4]
    assert chunks["one"] == chunks["two"] and len(chunks["one"]) == 4
    assert logs["one"] == ["0-0", "2-0", "4-0", "6-0", "main", "world-0"]
    # First item and process of each computed chunk: its own, r and r + 2, and what the other one has not begun.
    assert logs["two"] == ["0-0", "2-1", "4-0", "6-0", "main", "world-0", "world-1"]
    assert len(Stage(tmp_path / "two" / ".run" / "stage", 2, 7)) == 7


def test_what_a_killed_write_left_in_a_set_goes_when_it_is_worked_on_again(tmp_path):
    left = tmp_path / "set" / "assets" / ".card.md.host.1.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    run = Run(tmp_path / "run", {})
    with working_in(run, tmp_path / "set"):
        assert not left.exists()
    run.end()
