"""CaO2 on a MAR that is fitted first, end to end."""

from helpers import TINY, run_here, unscored

from distill_hub import load_distilled

WORDS = [
    *(*TINY, "--generator", "mar", "--fit_vae_steps", "10", "--fit_dit_steps", "10", "--fit_dit_width", "32"),
    *("--sample_steps", "4", "--head_steps", "5", "--ipc", "1", "--refine_steps", "2", "--condition", "null"),
    *("--view_epochs", "0", "--teacher_epochs", "1"),
]


def test_cao2_refines_what_a_mar_drew(tmp_path):
    with unscored():
        run_here("recipes/cao2.py", *WORDS, "--output_dir", str(tmp_path / "a"))
    found = load_distilled(tmp_path / "a")
    assert found.manifest.name == "digits-ipc1-cao2-mar" and len(found.pixels) == 10
    made = found.manifest.method.config
    assert (made["refine_learning_rate"], made["guidance_scale"], made["scheduler"]) == (1e-4, 2.9, None)
    assert found.manifest.generator.architecture == "MAR"
