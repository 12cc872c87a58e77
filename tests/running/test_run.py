import errno
import hashlib
import json
import os
import uuid
from itertools import permutations, product

import pytest
import torch
from processes import end_process, start_processes
from safetensors.torch import load_file

import distill_hub.running.stages
from distill_hub.config import InputError
from distill_hub.running.files import atomic_write
from distill_hub.running.run import Run, Stage
from distill_hub.running.seeds import cpu_generator, draw_seed

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


def test_on_main_calls_once_and_restores_the_threads(run):
    threads, calls = torch.get_num_threads(), []
    run.on_main("fit", lambda: calls.append(1))
    assert calls == [1] and torch.get_num_threads() == threads and run.stages[-1]["name"] == "fit"


# The output folder


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


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
    before = tree(out)
    with pytest.raises(InputError) as caught:
        Run(out, {"ipc": 50, "seed": 0})
    assert caught.value.field == "ipc"
    assert all(part in str(caught.value) for part in ("10", "50", str(out), "--overwrite"))
    assert tree(out) == before


def test_an_unfinished_run_goes_on_with_other_settings_and_says_which(tmp_path, capsys):
    start(tmp_path, {"ipc": 10, "seed": 0, "order": "auto"})
    Run(tmp_path, {"ipc": 50, "seed": 0, "order": "random"})
    told = " ".join(capsys.readouterr().out.split())
    assert "other settings: ipc (10 before, 50 now), order (auto before, random now); what depends on them" in told
    assert json.loads((tmp_path / ".run" / "config.json").read_bytes())["ipc"] == 50


def test_another_method_of_the_same_options_is_another_recipe(tmp_path):
    start(tmp_path, {"method": "herding"})
    with pytest.raises(InputError, match=r"^output_dir: .* another recipe: herding, not kcenter; --overwrite"):
        Run(tmp_path, {"method": "kcenter"})


@pytest.mark.parametrize("settings", [{"ipc": 10}, {"ipc": 10, "seed": 0, "order": "auto"}])
def test_a_folder_of_other_options_is_refused_with_what_helps(tmp_path, settings):
    """No value would do: the option is new, or gone."""
    out = tmp_path / "out"
    start(out, {"ipc": 10, "seed": 0})
    before = tree(out)
    with pytest.raises(InputError, match=r"another version.*--overwrite or another --output_dir") as caught:
        Run(out, settings)
    assert caught.value.field == "output_dir" and "use that value" not in str(caught.value)
    (other,) = settings.keys() ^ {"ipc", "seed"}
    assert other in str(caught.value) and tree(out) == before


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


def test_overwrite_starts_afresh(tmp_path):
    Run(tmp_path, {"seed": 1}).map("stage", ITEMS, lambda chunk: {"square": torch.zeros(len(chunk))}, chunk_size=2)
    (tmp_path / "README.md").write_text("the card of the old set")
    result, calls, _ = mapped(tmp_path, overwrite=True)
    assert result == SQUARES and len(calls) == 4 and os.listdir(tmp_path) == [".run"]
    assert json.loads((tmp_path / ".run" / "config.json").read_bytes())["seed"] == 0


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
    # First item and process of each computed chunk: process r takes chunks r, r + 2.
    assert logs["two"] == ["0-0", "2-1", "4-0", "6-1", "main", "world-0", "world-1"]
    assert len(Stage(tmp_path / "two" / ".run" / "stage", 2, 7)) == 7
