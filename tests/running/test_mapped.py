import pytest
import torch

from distill_hub.config import InputError
from distill_hub.running import mapped
from distill_hub.running.dry_run import DryRun
from distill_hub.running.mapped import make_mapped, open_mapped
from distill_hub.running.run import Run

SHAPE = (10, 3, 4, 4)


def wanted(rows) -> torch.Tensor:
    return torch.stack([torch.arange(48, dtype=torch.uint8).view(3, 4, 4) + row for row in rows])


def make(run, function=wanted, **how):
    return make_mapped(run, "images", SHAPE, function, chunk_size=4, made_from={"what": how.pop("what", 0)}, **how)


def test_rows_are_made_once_and_lie_one_after_the_other(tmp_path):
    made = make(Run(tmp_path / "run", {}))
    assert made.equal(wanted(range(10)))
    file = tmp_path / "run" / ".run" / "images" / "array"
    assert file.read_bytes() == wanted(range(10)).numpy().tobytes()
    again = make(Run(tmp_path / "run", {}), lambda rows: pytest.fail("it is there"))
    assert again.equal(made)


def test_what_is_made_from_something_else_is_made_again(tmp_path):
    make(Run(tmp_path / "run", {}))
    made = make(Run(tmp_path / "run", {}), lambda rows: wanted(rows) + 1, what=1)
    assert made.equal(wanted(range(10)) + 1)


def test_markers_without_the_file_count_for_nothing(tmp_path):
    run = Run(tmp_path / "run", {})
    make(run)
    (tmp_path / "run" / ".run" / "images" / "array").unlink()
    assert make(run).equal(wanted(range(10)))


def test_a_file_of_the_cache_serves_every_run(tmp_path):
    file = tmp_path / "cache" / "test-images"
    make(Run(tmp_path / "one", {}), file=file)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    made = make(Run(tmp_path / "other", {}), lambda rows: pytest.fail("it is there"), file=file)
    assert made.equal(wanted(range(10))) and open_mapped(file, SHAPE).equal(made)


def test_a_file_of_the_cache_that_was_cut_short_is_made_again(tmp_path):
    file = tmp_path / "cache" / "test-images"
    make(Run(tmp_path / "one", {}), file=file)
    file.write_bytes(file.read_bytes()[:100])
    assert make(Run(tmp_path / "other", {}), file=file).equal(wanted(range(10)))
    assert open_mapped(file, SHAPE).equal(wanted(range(10)))


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_made(tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(InputError, match="DISTILL_HUB_CACHE"):
        make(Run(tmp_path / "run", {}), lambda rows: pytest.fail("in vain"), file=tmp_path / "cache" / "test-images")


def test_what_is_written_to_the_tensor_stays_out_of_the_file(tmp_path):
    made = make(Run(tmp_path / "run", {}))
    made.zero_()
    assert open_mapped(tmp_path / "run" / ".run" / "images" / "array", SHAPE).equal(wanted(range(10)))


def test_a_dry_run_makes_the_first_chunk(tmp_path):
    run = DryRun(tmp_path / "run", {})
    made = make(run, file=tmp_path / "cache" / "images")
    assert made.shape == SHAPE and made[:4].equal(wanted(range(4))) and not made[4:].any()
    assert not (tmp_path / "cache").exists()
    (known,) = run.estimates
    assert known.bytes == known.mapped == made.nbytes  # all rows
    run.end()


def test_rows_of_another_shape_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"rows of torch.uint8 \(4, 3, 2, 2\)"):
        make(Run(tmp_path / "run", {}), lambda rows: wanted(rows)[:, :, :2, :2])


def test_an_item_may_be_several_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "AT_A_TIME", 4)
    run, read = Run(tmp_path / "run", {}), []

    def twice(start, stop):
        read.append((start, stop))
        return wanted(range(start, stop)).repeat_interleave(2, 0)

    made = mapped.map_rows(run, "twice", twice, 10)
    assert made.equal(wanted(range(10)).repeat_interleave(2, 0)) and read == [(0, 1), (0, 4), (4, 8), (8, 10)]


def test_a_run_that_joined_may_move_the_file_at_any_moment(tmp_path, monkeypatch):
    monkeypatch.setattr("distill_hub.running.processes.SEEN_AFTER", 1)
    run, other = (Run(tmp_path / "run", {}, join=True) for _ in range(2))
    file, looks = tmp_path / "cache" / "images", []

    def look(found, agree=run.agree):
        looks.append(found)
        if len(looks) == 2:  # there is room for the rows, and they are not there yet
            make(other, file=file)
        return agree(found)

    monkeypatch.setattr(run, "agree", look)
    made = make(run, lambda rows: pytest.fail("it is there"), file=file)
    assert looks == [False, False] and made.equal(wanted(range(10)))
