"""What a set takes on the disk, as far as students are trained on it."""

from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from distill_hub.artifact.records import DataBytes


def data_bytes(folder: Path, labels: str) -> DataBytes:
    """Return the bytes of what students are trained on: of the columns as parquet compresses them, or of stored views.

    Args:
        folder: The set's, its files checked; see `artifact.load.read_artifact`.
        labels: Whose labels the students learn: hard, soft, views, or a teacher's, which are stored nowhere.
    """
    sizes = Counter()
    for file in (folder / "data").glob("train-*.parquet"):
        footer = pq.read_metadata(file)
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                sizes[column.path_in_schema.split(".")[0]] += column.total_compressed_size
    stored = {
        "hard": sizes["label"],
        "soft": sizes["label"] + sizes["soft_label"],
        "views": sum(file.stat().st_size for file in (folder / "views").glob("train-*.parquet")),
    }
    return DataBytes(images=sizes["pixels"] or sizes["image"], labels=stored.get(labels))  # of free pixels these are seen
