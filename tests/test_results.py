"""The pages of the study say what its records say, and what they say of orderings is right."""

import argparse
import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml
from bench.kept import difference, studies, verdict
from bench.results_page import MARKERS, PAGE, README, ROOT, Page, stale
from bench.study import Judge
from bench.study import Study as Running
from helpers import RECIPES

from distill_hub.artifact.manifest import MethodRecord
from distill_hub.artifact.records import Score
from distill_hub.config import InputError, parse
from distill_hub.disk.files import atomic_write
from distill_hub.training.protocols import protocol


def score(*last: float) -> Score:
    return Score(last=list(last), best=list(last), best_epoch=[1] * len(last))


def test_the_pages_of_this_checkout_are_what_its_records_say():
    assert stale(ROOT) is None


@pytest.mark.parametrize("plan", sorted((ROOT / "tests" / "bench" / "plans").glob("*.yaml")), ids=lambda file: file.stem)
def test_recipes_take_the_words_of_a_plan(plan):
    plan = yaml.safe_load(plan.read_text())
    of_sets = [words for own in plan["sets"].values() for words in ([own] if isinstance(own, str) else own.values())]
    for recipe, *words in map(str.split, [*plan["models"].values(), *of_sets]):
        parse(RECIPES[recipe], words)
    assert {name for table in plan["tables"].values() for name in table["sets"]} <= plan["sets"].keys()
    assert {table["teacher"] for table in plan["tables"].values()} <= plan["models"].keys()


def test_an_ordering_holds_where_welch_s_test_tells_the_two_apart():
    low, high = score(0.50, 0.52, 0.54), score(0.56, 0.58, 0.60)  # deviations of 0.02: the error is sqrt(2 * 0.0004 / 3)
    assert difference(high, low) == pytest.approx((0.06, 0.0163299), abs=1e-6)
    assert verdict(high, low) == "holds"
    assert verdict(low, high) == "does not hold"
    # With 3 students each and 4 degrees of freedom, p is 0.05 at 2.776 errors, 0.0453, not at two of them.
    near, far = score(0.545, 0.565, 0.585), score(0.546, 0.566, 0.586)
    assert verdict(near, low) == verdict(low, near) == "within the noise" and verdict(far, low) == "holds"
    assert verdict(score(0.5), score(0.5)) == "within the noise"
    # Welch: sqrt(0.03**2 / 2 + 0.02**2 / 3), of other numbers of students
    assert difference(score(0.5, 0.542426), low)[1] == pytest.approx(0.0241523, abs=1e-6)


PLAN = {
    "source": "fish",
    "teacher": "small",
    "mixed_precision": "bf16",
    "models": {"small": "fit_classifier --epochs 3"},
    "sets": {
        "random": "random_real",
        "herding": "herding",
        "dm": {1: "dm --match_steps 5", 10: "dm --match_steps 7"},
        "mtt": "mtt",
    },
    "tables": {
        "judge": {
            "student": "convnet-1",
            "protocols": ["dsa-hard"],
            "ipc": [1, 10],
            "sets": ["random", "herding", "dm", "mtt"],
        }
    },
}
PUBLISHED = {
    "papers": {"dm": "[DM](https://a.b)", "later": "[Later](https://c.d)"},
    "sources": {"fish": "A copy."},
    "figures": [
        {
            "source": "fish",
            "sets": ["dm-big", "dm"],
            "paper": "dm",
            "read": "Tab. 1",
            "in": "later",
            "network": "convnet-3",
            "tables": ["other/kd", "judge/dsa-hard"],
            "accuracy": {1: [26.0, 0.8], 10: [48.9]},
            "settings": {"match_steps": {1: 20000, 10: 7}, "match_learning_rate": 1},
            "reason": "they are theirs",
        }
    ],
    "orderings": [
        {
            "source": "fish",
            "better": "dm",
            "worse": "random",
            "paper": "dm",
            "ipc": [1, 10, 50],
            "tables": ["judge/dsa-hard"],
        },
        {
            "source": "fish",
            "better": ["herding"],
            "worse": ["dm-big", "dm"],
            "paper": "later",
            "read": "Fig. 2",
            "where": "birds",
            "ipc": [1],
            "numbers": {1: [30, 20]},
            "tables": ["judge/dsa-hard"],
        },
    ],
}
TITLES = {"random": "random selection", "herding": "Herding", "dm": "DM: Distribution Matching"}
REACHED = {  # by students of three seeds, and random real images beside each
    ("random", 1): (0.11, 0.11, 0.11),
    ("herding", 1): (0.14, 0.15, 0.16),
    ("dm", 1): (0.20, 0.22, 0.24),
    ("dm", 10): (0.31, 0.30, 0.29),
}
RANDOM_REAL = {1: (0.10, 0.12, 0.14), 10: (0.30, 0.32, 0.31)}


@pytest.fixture
def checkout(tmp_path, build_manifest, make_evaluation) -> Path:
    """Return a checkout with a small study of four sets."""
    for (name, ipc), last in REACHED.items():
        content, folder = f"{len(name)}{ipc}".ljust(64, "0"), tmp_path / f"cards/results/fish/{name}-ipc{ipc}"
        config = {"match_steps": {1: 5, 10: 7}[ipc], "match_learning_rate": None}
        method = MethodRecord(name=name, title=TITLES[name], config=config)
        manifest = build_manifest(name=f"fish-{name}-{ipc}", ipc=ipc, method=method)(content)
        fields = {"protocol": "dsa-hard", "student": "convnet-1", "score": score(*last), "standard": True}
        fields |= {"chance": 0.1, "test_images": 10_000}  # 10.6 % and less are no more than chance
        record = make_evaluation(content, **fields, baselines={"random real": score(*RANDOM_REAL[ipc])})
        atomic_write(folder / "manifest.json", manifest.to_json().encode())
        atomic_write(folder / "evaluations" / record.file_name, record.to_json().encode())
    model = '{"distill_hub": {"network": "convnet-1", "settings": {"epochs": 3}, "test_accuracy": 0.7421}}'
    atomic_write(tmp_path / "cards/results/fish/models/all-real-convnet-1/config.json", model.encode())
    atomic_write(tmp_path / "tests/bench/plans/fish.yaml", yaml.safe_dump(PLAN).encode())
    atomic_write(tmp_path / "cards/published.yaml", yaml.safe_dump(PUBLISHED).encode())
    atomic_write(tmp_path / README, f"# Title\n\n{MARKERS[0]}\n{MARKERS[1]}\n\nThe rest.\n".encode())
    return tmp_path


def write(checkout: Path) -> dict[str, str]:
    """Write the pages, and return their texts by name."""
    files = Page(checkout).files()
    for file, text in files.items():
        atomic_write(file, text.encode())
    return {file.name: text for file, text in files.items()}


def rows(text: str) -> list[list[str]]:
    lines = [line.replace("\N{NO-BREAK SPACE}", " ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_page_has_what_was_measured_beside_what_papers_print(checkout):
    text = write(checkout)["RESULTS.md"]
    found = rows(text)
    assert found[:8] == [
        ["", "IPC 1", "IPC 10"],
        ["---", "---:", "---:"],
        ["*random real*", "12.0 ± 2.0 †", "31.0 ± 1.0"],
        ["one random draw", "11.0 ± 0.0 (-1.0)", "-"],
        ["Herding", "15.0 ± 1.0 (+3.0) ◆", "-"],
        ["DM", "**22.0 ± 2.0** (+10.0)", "**30.0 ± 1.0** (-1.0)"],
        ["*all real images*", "74.2", "74.2"],
        ["", "IPC", "paper", "ours", "ours - paper", "student here"],
    ]
    # Herding is 3 points above, 2.3 errors of sqrt((0.02**2 + 0.01**2) / 3), with 2.9 degrees of freedom.
    assert "Above random real images at p < 0.05: 1 of 2 sets at IPC 1, 0 of 1 sets at IPC 10." in text
    assert "Not measured: `mtt`." in text and "\nA copy.\n" in text
    assert found[9:11] == [
        ["DM", "1", "26.0 ± 0.8", "22.0 ± 2.0", "-4.0", "convnet-1, dsa-hard"],
        ["DM", "10", "48.9", "30.0 ± 1.0", "-18.9", "convnet-1, dsa-hard"],
    ]
    assert " ".join(text.partition("- DM: ")[2].partition("\n\n")[0].split()) == (
        "[DM](https://a.b), by Tab. 1 of [Later](https://c.d); student convnet-1, the paper's convnet-3; "
        "`match_steps` 5, the paper's 20,000 (IPC 1); they are theirs."
    )
    assert "Claims that these records can test: 3 (holds: 1, within the noise: 1, does not hold: 1)." in text
    ours, dm, later = "judge, dsa-hard", "[DM](https://a.b)", "[Later](https://c.d), Fig. 2, birds"
    # sqrt(2 * 0.02**2 / 3), sqrt(2 * 0.01**2 / 3) and sqrt((0.01**2 + 0.02**2) / 3)
    assert found[13:16] == [
        ["DM > random real", "1", "-", "22.0, 12.0", "+10.0 ± 1.6", "0.004", "holds", ours, dm],
        ["DM > random real", "10", "-", "30.0, 31.0", "-1.0 ± 0.8", "0.288", "within the noise", ours, dm],
        ["Herding > DM", "1", "30.0 > 20.0", "15.0, 22.0", "-7.0 ± 1.3", "0.013", "**does not hold**", ours, later],
    ]
    assert ["`dm`", "10", "no", "`dm --match_steps 7`"] in found
    assert all(len(line) <= 125 for line in text.splitlines() if not line.startswith("|"))


def test_the_readme_gets_the_known_methods_between_its_markers(checkout):
    text = write(checkout)["README.md"]
    assert text.startswith(f"# Title\n\n{MARKERS[0]}\n|") and text.endswith(f"\n{MARKERS[1]}\n\nThe rest.\n")
    assert [row[:3] for row in rows(text)[2:]] == [
        ["*random real*", "12.0 ± 2.0 †", "31.0 ± 1.0"],
        ["*best coreset*", "15.0 ± 1.0", "-"],
        ["DM", "**22.0 ± 2.0** (+10.0)", "**30.0 ± 1.0** (-1.0)"],
        ["*all real images*", "74.2", "74.2"],
    ]


def test_a_number_that_no_record_has_is_found(checkout):
    assert stale(checkout) == f"{PAGE} and {README}: not what the records say; python tests/bench/results_page.py writes it"
    write(checkout)
    assert stale(checkout) is None
    typed = (checkout / README).read_text().replace("22.0", "22.1")
    (checkout / README).write_text(typed)
    assert stale(checkout).startswith(f"{README}: not what the records say")
    write(checkout)
    plan = checkout / "tests/bench/plans/fish.yaml"
    plan.write_text(plan.read_text().replace("match_steps 5", "match_steps 6"))
    assert stale(checkout) == "cards/results is not by the plans: dm-ipc1: --match_steps 6 in the plan, 5 in its manifest"
    plan.write_text(plan.read_text().replace("match_steps 6", "match_steps 5"))
    record = next((checkout / "cards/results/fish/dm-ipc1/evaluations").iterdir())
    record.write_text(record.read_text().replace("0.24", "0.245"))
    assert stale(checkout).startswith(f"{PAGE} and {README}: not")


def test_a_study_takes_records_of_its_own_students_on_the_set_as_it_is(checkout, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # which a study sets
    folder, plan = checkout / "cards/results/fish", checkout / "tests/bench/plans/fish.yaml"
    study = Running(argparse.Namespace(plan=plan, folder=folder.parent, kept=folder.parent, source=None, normalization=None))
    judge, rules = Judge(None, None, (None, None), study.plan["tables"]["judge"]), protocol("dsa-hard")
    assert study.scored(judge, "dm", 1, rules).score.last == list(REACHED["dm", 1])
    assert study.scored(judge, "mtt", 1, rules) is None  # not made
    assert study.scored(judge, "dm", 1, dataclasses.replace(rules, version=rules.version + 1)) is None
    other = Judge(None, None, (None, None), {**judge.table, "student": "convnet-2"})
    assert study.scored(other, "dm", 1, rules) is None
    shutil.copy(folder / "herding-ipc1/manifest.json", folder / "dm-ipc1")  # another content
    assert study.scored(judge, "dm", 1, rules) is None


def test_what_does_not_compare_within_a_table_is_found(checkout):
    write(checkout)
    record = next((checkout / "cards/results/fish/dm-ipc1/evaluations").iterdir())
    record.write_text(record.read_text().replace('"protocol_version": 1', '"protocol_version": 2'))
    assert stale(checkout) == (
        "cards/results is not by the plans: judge/dsa-hard: students of several protocol versions, teachers or seeds"
    )


def test_pages_without_records_and_records_without_a_place(checkout):
    write(checkout)
    kept = shutil.move(checkout / "cards/results", checkout / "elsewhere")
    assert "none are kept in cards/results" in stale(checkout)
    (checkout / PAGE).unlink()
    assert "none are kept in cards/results" in stale(checkout)  # README.md shows some
    (checkout / README).write_text("# Title\n")
    assert stale(checkout) is None and studies(checkout) == []
    shutil.move(kept, checkout / "cards/results")
    with pytest.raises(InputError, match="<!-- results -->"):
        stale(checkout)


def test_published_figures_name_what_the_plans_have():
    published = yaml.safe_load((ROOT / "cards/published.yaml").read_text(encoding="utf-8"))
    plans = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / "tests/bench/plans").glob("*.yaml")}
    assert published["sources"].keys() <= plans.keys()
    for entry in (*published["figures"], *published["orderings"]):
        plan = plans[entry["source"]]
        names = [entry.get(side, []) for side in ("sets", "better", "worse")]
        named = {name for own in names for name in ([own] if isinstance(own, str) else own)}
        tables = {f"{table}/{rules}" for table, own in plan["tables"].items() for rules in own["protocols"]}
        assert named and named <= plan["sets"].keys() and {*entry["tables"]} <= tables
        assert {entry["paper"], entry.get("in", entry["paper"])} <= published["papers"].keys()
        # A claim without numbers of its own is of the figures, or says where it was read.
        assert "numbers" not in entry or entry["numbers"].keys() <= {*entry["ipc"]}
