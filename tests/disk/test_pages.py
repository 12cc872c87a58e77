"""Parquet files that stand for far more than they are end before PyArrow sees them."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill_hub.disk.pages import Column, read_columns, rows_at_a_time

TABLE = pa.table(
    {
        "text": pa.array(["ab", "c", "ab"]),
        "numbers": pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32(), 2)),
        "image": pa.array([{"bytes": b"xyz", "path": None}] * 3),
    }
)


@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_values_of_every_column(tmp_path, codec, version):
    how = {"compression": codec, "data_page_version": version, "row_group_size": 2, "write_page_checksum": True}
    pq.write_table(TABLE, tmp_path / "x.parquet", **how)
    found = {column.path: column.values for column in read_columns(tmp_path / "x.parquet")}
    expected = {("text",): 3, ("numbers", "list", "element"): 6, ("image", "bytes"): 3, ("image", "path"): 3}
    assert found == expected
    (text,) = read_columns(tmp_path / "x.parquet", ["text"])
    assert text.largest_dictionary == 4 + 2 + 4 + 1  # length and letters of both texts of the first row group


def test_rows_at_a_time():
    assert rows_at_a_time([], 100) == 100
    assert rows_at_a_time([Column(("a",), 1, 2**20)], 100) == 32
    assert rows_at_a_time([Column(("a",), 1, 2**30)], 100) == 1


def swelling(kind):
    rows = 10_000
    if kind == "cell":
        image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([bytes(100_000_000)]))
        return pa.table({"image": image}), {"compression": "zstd"}
    if kind == "list":
        values = pa.array(np.ones(50_000_000, np.float32))
        return pa.table({"soft": pa.ListArray.from_arrays(pa.array([0, 50_000_000], pa.int32()), values)}), {}
    texts = pa.array([bytes(100_000) + bytes([i % 256]) for i in range(1000)])
    return pa.table({"image": texts}), {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}}


@pytest.mark.parametrize(("kind", "message"), [("cell", "unpacks from"), ("list", "unpacks to"), ("prefix", "beginnings")])
def test_kilobytes_that_stand_for_gigabytes(tmp_path, kind, message):
    table, how = swelling(kind)
    pq.write_table(table, tmp_path / "x.parquet", **how)
    assert (tmp_path / "x.parquet").stat().st_size < 1_000_000
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        read_columns(tmp_path / "x.parquet")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000 and pa.total_allocated_bytes() <= before
    tracemalloc.stop()


def test_damage_anywhere_is_an_error_of_one_kind(tmp_path):
    file = tmp_path / "x.parquet"
    pq.write_table(TABLE, file)
    good = file.read_bytes()
    fell = 0
    for place in range(len(good)):
        file.write_bytes(good[:place] + bytes([good[place] ^ 0x15]) + good[place + 1 :])
        try:
            read_columns(file)
        except ValueError:
            fell += 1
    assert fell > 100
    for data in (b"", b"PAR1", b"PAR1\0\0\0\0PAR1", good[:-20], bytes(1000), good[4:]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.parquet"):
            read_columns(file)
