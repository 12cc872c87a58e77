"""The built wheel holds what an installed user needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_ships_cards_and_recipes(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("cards", "recipes"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                assert f"distill_hub/{file.relative_to(ROOT)}" in names
    assert not [name for name in names if name.startswith(("tests/", "outputs/"))]
    assert any(name.endswith("entry_points.txt") for name in names)
