"""What compares and what does not, and the numbers."""

import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
import scipy.stats
from compared import Page, run, score, shown, teacher

from distill_hub.artifact import find
from distill_hub.artifact.manifest import FreePixelsRecord, ModelRecord, StageRecord, ZcaRecord
from distill_hub.artifact.records import DataBytes, DDRanking
from distill_hub.comparing.compare import compare, pooled, read_sets
from distill_hub.comparing.page import render_page
from distill_hub.comparing.table import columns, explain
from distill_hub.config import parse
from distill_hub.hub import RemoteFile, RemoteSet
from distill_hub.options.commands import CompareConfig


def groups_of(*folders):
    return compare(read_sets(folders))


# What compares.


def test_rows_of_one_protocol_and_student_are_one_group_best_first(make_set):
    records = [{"seeds": [0, 1], "score": score(mean, mean), "baselines": {}} for mean in (0.4, 0.9, 0.6)]
    folders = [make_set(f"set-{i}", record) for i, record in enumerate(records)]
    (group,) = groups_of(*folders)
    assert [row.set.label for row in group.rows] == ["set-1", "set-2", "set-0"]
    assert group.title == "fish · quick v1 (NON-STANDARD) · convnet2"
    assert group.notes == []


@pytest.mark.parametrize(
    "record",
    [{"protocol": "other"}, {"protocol_version": 2}, {"standard": True}, {"student": "convnet3"}, {"teacher": teacher("a")}],
)
def test_another_protocol_version_standing_student_or_teacher_is_another_group(make_set, record):
    one, two = groups_of(make_set("one"), make_set("two", record))
    assert [row.set.label for group in (one, two) for row in group.rows] == ["one", "two"]
    assert one.title != two.title
    assert one.notes == two.notes == ["There is nothing here to compare it with."]


def test_another_source_split_or_choice_of_classes_is_another_group_under_another_title(make_set, build_manifest):
    usual = build_manifest()("0" * 64)
    sources = [{"fingerprint": "f" * 64}, {"test_split": "validation"}, {"test_fraction": 0.25}]
    others = [{"source": usual.source.model_copy(update=change)} for change in sources]
    others.append({"classes": [c.model_copy(update={"source_index": c.source_index + 1}) for c in usual.classes]})
    folders = [make_set(f"set-{i}", **fields) for i, fields in enumerate([{}, *others])]
    groups = groups_of(*folders)
    assert [len(group.rows) for group in groups] == [1] * 5
    assert groups[1].source == "fish (3 classes of ffffffff, split test)"
    assert groups[3].source == "fish (3 classes of 00000000, split test, 25% held out)"
    # The same classes in another order, on which a set's own labels depend, are the same test.
    turned = make_set("turned", classes=list(reversed(usual.classes)))
    assert len(groups_of(folders[0], turned)) == 1
    # Of a dataset on the Hub the commit compares: older versions took the fingerprint of its images.
    hub = [{"hub_id": "org/fish", "revision": r * 40, "fingerprint": f * 64} for r, f in ("a0", "a1", "b1")]
    pinned = [make_set(f"hub-{i}", source=usual.source.model_copy(update=known)) for i, known in enumerate(hub)]
    assert [len(group.rows) for group in groups_of(*pinned)] == [2, 1]


def test_labels_of_another_teacher_do_not_compare_stored_or_not(make_set, with_views, make_evaluation):
    soft = {"settings": {"labels": "soft"}, "protocol": "kd"}
    folders = [make_set(f"set-{i}", soft, teacher=teacher(letter)) for i, letter in enumerate("aab")]
    one, two = groups_of(*folders)
    assert (len(one.rows), len(two.rows)) == (2, 1)
    assert one.title.endswith("labels of fitted on digits (aaaaaaaa)")
    # Hard labels are the source's own: the teacher in the manifest has no part in them.
    assert len(groups_of(*(make_set(f"hard-{i}", teacher=teacher(letter)) for i, letter in enumerate("ab")))) == 1
    # Stored views have the labels of whoever is on record for them.
    manifest = json.loads((with_views / "manifest.json").read_text())
    for name, sha256 in (("now", manifest["views"]["sha256"]), ("before", "e" * 64)):
        record = make_evaluation(manifest["content_sha256"], protocol="fkd", views_sha256=sha256)
        (with_views / "evaluations" / f"{name}.json").write_text(record.to_json())
    groups = groups_of(str(with_views))
    titles = [group.title for group in groups]
    (lost,) = [group for group in groups if "not there" in group.title]
    assert any("learned stored views that are not there any more" in line for line in lost.warnings)
    assert {t.split("labels of ")[1] for t in titles if "fkd" in t} == {
        "org/labeller (22222222)",
        "views that are not there any more (eeeeeeee)",
    }


def test_learned_labels_compare_with_no_others(make_set):
    soft = {"settings": {"labels": "soft"}, "protocol": "dsa-soft"}
    folders = [make_set("taught", soft, teacher=teacher("a")), make_set("learned", soft, soft_labels="learned")]
    assert sorted(group.title.split("labels of ")[1][:21] for group in groups_of(*folders)) == [
        "fitted on digits (aaa", "learned with its imag",
    ]  # fmt: skip


def test_a_claim_and_a_measurement_are_two_rows(make_set):
    measured = {"score": score(0.2, 0.2, 0.2), "submitted_by": "bob"}
    (group,) = groups_of(make_set("one", {}, measured))
    assert [(row.record.submitted_by, round(row.record.score.mean, 3)) for row in group.rows] == [(None, 0.6), ("bob", 0.2)]
    text = shown([group])
    assert " by " in text and " author " in text and " bob " in text
    assert " by " not in shown(groups_of(make_set("two")))


def test_a_record_of_an_earlier_content_is_none(make_set):
    folder = Path(make_set("one"))
    record = json.loads((folder / "evaluations" / "0.json").read_text())
    (folder / "evaluations" / "0.json").write_text(json.dumps(record | {"content_sha256": "9" * 64}))
    sets = read_sets([str(folder)])
    assert compare(sets) == []
    assert "No evaluation record of its present content: one" in explain(sets, []).plain
    assert "No evaluation record of their present content is there: one." in render_page(sets, [])


def test_what_does_not_compare_within_a_group_is_said(make_set, build_manifest):
    slow = build_manifest()("0" * 64).environment.model_copy(update={"hardware": "slow CPU", "processes": 2})
    ranks = [DDRanking(lrs=0.3, ars=0.3, real_accuracy=real) for real in (0.9, 0.8)]
    (group,) = groups_of(
        make_set("one", {"settings": {"image_size": 8}, "dd_ranking": ranks[0]}),
        make_set("two", {"settings": {"image_size": 16}, "dd_ranking": ranks[1]}, environment=slow, ipc=5),
    )
    assert group.notes == [
        "Accuracies compare at the same number of images per class (IPC) only.",
        "Accuracies: students saw images of 8 and 16 pixels a side.",
        "Minutes and memory do not compare: they were taken on 1 x CPU, 1 process and slow CPU, 2 processes.",
        "LRS does not compare: accuracies on all real data were 0.8 and 0.9.",
    ]


def test_students_that_saw_the_same_source_in_different_ways_are_told(make_set):
    """One protocol flips and normalises as its author says that the source is; a record of another may not say it."""
    ways = [{"augmentation": {"flip": flip}, "mean": mean} for flip, mean in ((True, [0.5]), (False, [0.4]))]
    notes = [
        "Accuracies: some students saw mirrored images, others did not, as was said of the source of each.",
        "Accuracies: students saw images of different normalisations, as was said of the source of each.",
    ]
    folders = [make_set(f"set-{i}", {"settings": settings}) for i, settings in enumerate([*ways, {}, {"augmentation": 1}])]
    assert groups_of(*folders)[0].notes == notes
    assert groups_of(*folders[:1], *folders[2:])[0].notes == []


def test_sets_whose_students_see_other_images_than_stored_are_told(make_set):
    zca = FreePixelsRecord(zca=ZcaRecord(eps=0.1, images=5, sha256="0" * 64))
    plain = make_set("plain", {"settings": {"mean": [0.5]}})
    whitened = make_set("whitened", {"settings": {"mean": [0.0]}}, free_pixels=zca)
    tiles, free = make_set("tiles", tiles=2), make_set("free", free_pixels=FreePixelsRecord())
    assert groups_of(plain, whitened, free)[0].notes == [
        "Accuracies: students of whitened saw whitened images, others did not."
    ]
    assert groups_of(whitened, make_set("second", free_pixels=zca))[0].notes == []
    assert groups_of(plain, tiles)[0].notes == ["IPC counts stored images: those of tiles hold several tiles each."]


def test_what_nobody_may_overlook_stands_with_the_group(make_set):
    # Chance is a third, 150 test images: up to 41 % cannot be told from it.
    flat = {"score": score(0.3, 0.35, 0.36), "baselines": {"random real": score(0.8, 0.8, 0.8)}}
    folder = make_set("one", flat)
    (group,) = groups_of(folder)
    first, collapse, below = group.warnings
    assert first.startswith("quick v1 is NOT of the literature")
    assert collapse.startswith("one: convnet2 on this set COLLAPSED in 3 of 3 seeds: 0 (30.0 %), 1 (35.0 %), 2 (36.0 %); ")
    assert below == "one: convnet2 on this set is BELOW as many random real images, by 46.3 points on average"
    assert below in " ".join(shown([group]).split())
    assert all(line in render_page(read_sets([folder]), [group]) for line in group.warnings)
    found = group.as_json()
    assert found["warnings"] == group.warnings and found["rows"][0]["below_random_real"] is True
    assert found["rows"][0]["collapsed_seeds"] == {"this set": [0, 1, 2]}


def test_what_sets_share_is_said_once(make_set):
    fields = {"score": score(0.9, 0.9, 0.9), "baselines": {"random real": score(0.3, 0.35, 0.36)}}
    (group,) = groups_of(make_set("one", fields), make_set("two", fields | {"score": score(0.8, 0.8, 0.8)}))
    (line,) = group.failures
    assert line.startswith("one, two: convnet2 on random real COLLAPSED in 3 of 3 seeds")


def test_all_real_data_have_a_column_where_they_are_on_record(make_set):
    trained = {"baselines": {"all real images, hard labels": score(0.88, 0.9, 0.92)}}
    ranked = {"dd_ranking": DDRanking(lrs=0.3, ars=0.3, real_accuracy=0.8), "submitted_by": "bob"}
    (group,) = groups_of(make_set("one", trained, ranked))
    assert [row.as_json()["all_real_mean"] for row in group.rows] == pytest.approx([0.9, 0.8])
    text = shown([group], width=140)
    assert " 90.0 " in text and " 80.0 " in text and "all" in text
    assert "real" not in shown(groups_of(make_set("two"))).replace("random real", "")


# Held against coresets, and against the author.


def test_every_row_is_held_against_the_best_coreset_of_as_many_images(make_set, build_manifest):
    usual = build_manifest()("0" * 64).method

    def by(method):
        return usual.model_copy(update={"name": method, "title": method})

    def reached(mean, **baselines):
        return {
            "score": score(mean - 0.01, mean, mean + 0.01),
            "baselines": {n: score(m, m, m) for n, m in baselines.items()},
        }

    group, other = groups_of(
        make_set("dm", reached(0.6, ccs=0.5, el2n=0.45), method=by("dm")),
        make_set("herding", reached(0.55), method=by("herding")),
        make_set("random", reached(0.9), method=by("random")),
        make_set("large", reached(0.7, kmeans=0.65, unknown=0.99), method=by("dm"), ipc=5),
        make_set("larger", reached(0.8), method=by("dm"), ipc=50),
        make_set("elsewhere", reached(0.6) | {"student": "convnet3"}, method=by("dm")),
    )
    rows = {row.set.label: row for row in group.rows}
    assert list(rows) == ["random", "dm", "herding", "large", "larger"]  # by size, best first
    best = {name: row.best_coreset and row.best_coreset.whose for name, row in rows.items()}
    same = dict.fromkeys(("random", "dm", "herding"), "herding (herding)")
    assert best == {**same, "large": "kmeans (baseline of large)", "larger": None}
    expected = {"random": 0.35, "dm": 0.05, "herding": 0.0, "large": 0.05}
    assert {name: rows[name].over_coreset for name in expected} == pytest.approx(expected)
    assert other.rows[0].best_coreset is None and not other.best_coresets
    # Beside the set alone, its baseline is the best.
    (alone,) = groups_of(make_set("alone", reached(0.4, ccs=0.5, el2n=0.45)))
    assert alone.rows[0].over_coreset == pytest.approx(-0.1) and alone.best_coresets["2"].name == "ccs"
    cells = {name: columns(group)["vs. coreset"](row).text for name, row in rows.items()}
    assert cells == {"random": "+35.0", "dm": "+5.0", "herding": "the best", "large": "+5.0", "larger": "-"}
    text = " ".join(shown([group], width=160).split())
    assert (
        "Best coreset at IPC 2: herding (herding), 55.0 ± 1.0 Best coreset at IPC 5: kmeans (baseline of large), 65.0 ± 0.0"
        in text
    )
    assert "vs. coreset" not in columns(other)
    found = group.as_json()["rows"][1]
    assert found["best_coreset"] == {"name": "herding", "mean": pytest.approx(0.55), "set": "herding"}
    assert found["best_coreset_difference"] == pytest.approx(0.05)


def test_a_measurement_is_held_against_the_claim(make_set):
    claimed = {"score": score(0.58, 0.6, 0.62)}
    near, far = (
        {"submitted_by": who, "score": score(*s)} for who, s in (("bob", (0.57, 0.6, 0.6)), ("eve", (0.2, 0.21, 0.22)))
    )
    lone = {"submitted_by": "joe", "seeds": [0], "score": score(0.4), "baselines": {}}
    (group,) = groups_of(make_set("one", claimed, near, far, lone), make_set("two", near))
    cells = {(row.set.label, row.by.split()[0]): columns(group)["vs. claim"](row) for row in group.rows}
    assert {who: (cell.text, cell.mark) for who, cell in cells.items()} == {
        ("one", "author"): ("-", ""),
        ("one", "bob"): ("-1.0", ""),
        ("one", "eve"): ("-39.0", "not as claimed"),  # standard errors of 1.2 and 0.6 points
        ("one", "joe"): ("-20.0", ""),  # of one seed the deviation is not known
        ("two", "bob"): ("-", ""),
    }
    assert "-39.0 !" in shown([group], width=160) and "a measurement is not as claimed" in explain([], [group]).plain


def test_of_several_claims_a_measurement_is_held_against_that_of_its_seeds(make_set):
    many, few = {"score": score(0.6, 0.6, 0.6)}, {"score": score(0.9, 0.9), "seeds": [0, 1], "baselines": {}}
    others = [{**many, "submitted_by": "bob"}, {**few, "submitted_by": "eve"}]
    others.append({**few, "seeds": [7, 8], "submitted_by": "ann"})
    (group,) = groups_of(make_set("one", many, few, *others))
    found = {row.record.submitted_by: row.claim.score.mean for row in group.rows if row.claim}
    assert found == {"bob": pytest.approx(0.6), "eve": pytest.approx(0.9), "ann": pytest.approx(0.6)}


def test_collapsed_students_and_baselines_are_marked(make_set, build_manifest):
    usual = build_manifest()("0" * 64).method.model_copy(update={"name": "ccs"})
    flat, well = score(0.3, 0.33, 0.35), score(0.8, 0.8, 0.8)  # chance is a third
    (group,) = groups_of(
        make_set("well", {"score": well, "baselines": {"random real": flat, "herding": flat}}),
        make_set("flat", {"score": flat, "baselines": {"random real": well}}, ipc=5, method=usual),
        make_set("beside", {"score": well, "baselines": {}}, ipc=5),
    )
    marks = {
        row.set.label: {t: cell(row).mark for t, cell in columns(group).items() if cell(row).mark} for row in group.rows
    }
    assert marks == {
        "well": {"vs. random": "baseline collapsed", "vs. coreset": "coreset collapsed"},
        "flat": {"last, %": "collapsed"},
        "beside": {"vs. coreset": "coreset collapsed"},
    }


def test_sets_of_one_content_are_said_to_be_equal(make_set):
    folders = [Path(make_set(name)) for name in ("one", "two", "three")]
    for folder in folders[1:]:
        for file in (folder / "manifest.json", folder / "evaluations" / "0.json"):
            text = file.read_text().replace(f"{2:064x}", f"{1:064x}")
            file.write_text(text)
    (group,) = groups_of(*map(str, folders))
    assert "The same images and labels under several names: one and two." in group.notes


# Numbers.


def test_welch_s_test_by_hand_and_by_the_accuracies(make_set):
    numbers = itertools.count()

    def row(own, random):
        record = {"seeds": list(range(len(own))), "score": score(*own), "baselines": {"random real": score(*random)}}
        (group,) = groups_of(make_set(f"set-{next(numbers)}", record))
        return group.rows[0]

    # t = 0.2 / sqrt(0.01/3 + 0.01/3), so t^2 = 6 with 4 degrees of freedom, where p = 1 - t (t^2 + 6) / (t^2 + 4)^1.5.
    even = row((0.5, 0.6, 0.7), (0.3, 0.4, 0.5))
    assert even.difference == pytest.approx(0.2)
    assert even.p_value == pytest.approx(1 - 6**0.5 * 12 / 10**1.5)
    own, random = (0.91, 0.93, 0.9, 0.94), (0.7, 0.9, 0.8, 0.95)
    assert row(own, random).p_value == pytest.approx(scipy.stats.ttest_ind(own, random, equal_var=False).pvalue)
    assert row(own, random).p_value != pytest.approx(scipy.stats.ttest_ind(own, random).pvalue)  # Student's
    assert row((0.9,), (0.5,)).p_value is None and row((0.9,), (0.5,)).difference == pytest.approx(0.4)
    assert row((0.9, 0.9), (0.5, 0.5)).p_value is None
    assert row((0.9, 0.9), (0.5, 0.6)).p_value == pytest.approx(scipy.stats.ttest_1samp((0.5, 0.6), 0.9).pvalue)


def test_what_the_terminal_shows_fits_110_columns_and_that_of_authors_80(make_set):
    stages = [StageRecord(name=n, items=1, seconds=s) for n, s in (("fit", 60.0), ("sample", 45.5))]
    one = make_set("imagewoof-ipc10-minimax", stages=stages)
    lone = {"seeds": [0], "score": score(0.5), "baselines": {}, "submitted_by": "bob"}
    other = make_set("other", lone, stages=[], environment=None)
    text = shown(groups_of(one, other), width=110)
    assert max(map(len, text.splitlines())) <= 110
    lines = [line.split() for line in text.splitlines()]
    # 0.5, 0.6, 0.7; 20 points over random, which collapsed; p by hand above; 12,345 bytes; 105.5 s
    assert "imagewoof-ipc10-minimax 60.0 ± 10.0 2 +20.0 ! 0.070 author 3 0.01 1.76".split() in lines
    assert "other 50.0 ± - 2 - - bob 1 0.01 -".split() in lines and ["(unconfirmed)"] in lines
    narrow = [line for line in shown(groups_of(one), width=80).splitlines() if "60.0" in line]
    assert narrow[0].split() == "imagewoof-ipc10-minimax 60.0 ± 10.0 2 +20.0 ! 0.070 3 0.01 1.76".split()


def test_bytes_stand_beside_accuracies_where_records_say_them(make_set):
    sizes = DataBytes(images=2_000_000, labels=500_000), DataBytes(images=1_000_000), None
    folders = [make_set(f"set-{i}", {"bytes": size}) for i, size in enumerate(sizes)]
    (group,) = groups_of(*folders)
    lines = [line.split() for line in shown([group], width=140).splitlines()]
    score = "60.0 ± 10.0 2 +20.0 ! 0.070 3"
    for name, numbers in (("set-0", "2.500 24.0"), ("set-1", "- -"), ("set-2", "- -")):
        assert f"{name} {score} {numbers} 0.01 1.25".split() in lines
    every = shown(groups_of(*folders[:2]), width=140)
    assert f"set-0 {score} 2.500 24.0 1.25".split() in [line.split() for line in every.splitlines()]
    cells = [[cell(row).text for title, cell in columns(group).items() if "MB" in title] for row in group.rows]
    assert cells == [["2.000", "0.500", "2.500", "24.0", "0.01"], ["1.000", "-", "-", "-", "0.01"], [*"----", "0.01"]]
    (by_a_teacher,) = groups_of(folders[1])
    assert [title for title in columns(by_a_teacher) if "MB" in title] == ["images, MB"]
    rows = {own.set.label: own.as_json() for own in group.rows}
    assert rows["set-0"]["bytes"] == {"images": 2_000_000, "labels": 500_000, "both": 2_500_000}
    assert rows["set-0"]["percent_per_mb"] == pytest.approx(24) and rows["set-1"]["bytes"]["both"] is None
    assert rows["set-2"]["bytes"] is rows["set-2"]["percent_per_mb"] is None


def test_students_of_one_protocol_with_and_without_stored_views_do_not_compare(with_views, make_evaluation):
    manifest = json.loads((with_views / "manifest.json").read_text())
    labeller = ModelRecord(**manifest["views"]["teacher"])
    for name, labels in (("stored", {"views_sha256": manifest["views"]["sha256"]}), ("online", {"teacher": labeller})):
        record = make_evaluation(manifest["content_sha256"], protocol="lpld", **labels)
        (with_views / "evaluations" / f"{name}.json").write_text(record.to_json())
    titles = sorted(group.title.split(" · ")[3] for group in groups_of(str(with_views)) if "lpld" in group.title)
    assert titles == ["labels of org/labeller (22222222)", "stored labels of org/labeller (22222222)"]


def test_the_same_accuracies_from_two_records_count_once():
    assert pooled([score(0.1, 0.2), score(0.1, 0.2), score(0.3)]) == pytest.approx((0.2, 0.1))
    assert pooled([score(0.4)]) == (0.4, 0.0)


def test_the_json_file_has_unrounded_numbers(make_set, tmp_path, capsys):
    ranking = DDRanking(lrs=0.25, ars=0.5, real_accuracy=0.9)
    run(make_set("one", {"dd_ranking": ranking}), "--json", str(tmp_path / "new" / "rows.json"))
    (group,) = json.loads((tmp_path / "new" / "rows.json").read_text())
    assert (group["source"], group["protocol"], group["protocol_version"], group["student"]) == (
        "fish",
        "quick",
        1,
        "convnet2",
    )
    (row,) = group["rows"]
    numbers = {
        "mean": 0.6,
        "std": 0.1,
        "best_mean": 0.7,
        "random_real_mean": 0.4,
        "difference": 0.2,
        "lrs": 0.25,
        "ars": 0.5,
    }
    numbers |= {"p_value": 1 - 6**0.5 * 12 / 10**1.5, "seconds": 75.0, "data_bytes": 12_345, "ipc": 2}
    assert {name: row[name] for name in numbers} == pytest.approx(numbers)
    assert (row["core_seconds"], row["gpu_seconds"], row["cost_is_whole"]) == (None, None, True)
    assert list(row["cost_parts"]) == ["its own stages"]
    assert row["peak_memory_bytes"] == {"cpu": 1_300_000_000} and row["submitted_by"] is None
    assert "LRS: DD-Ranking's label-robust score" in capsys.readouterr().out


# Bad input.


def test_sets_are_one_or_more_words():
    config = parse(CompareConfig, ["a", "org/b", "c", "--html", "x.html"])
    assert config == CompareConfig(locations=["a", "org/b", "c"], html=Path("x.html"))
    assert parse(CompareConfig, ["--json", "x.json", "a"]) == CompareConfig(locations=["a"], json=Path("x.json"))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "locations"),
        (["nowhere"], "there is no such folder, and it is not a Hub id"),
        (["org/nowhere"], "HF_HUB_OFFLINE"),
        (["SET", "EMPTY"], "it holds no manifest.json; `distill-hub adopt` brings a set made elsewhere into this format"),
        (["SET", "FILE"], "it holds no manifest.json"),
        (["SET", "--html", "EMPTY"], "it is a folder; name a file in it"),
        (["SET", "--html", "FILE/page.html"], "nothing can be written in"),
        (["SET", "--json", "/proc/nowhere/rows.json"], "nothing can be written in /proc"),
        (["SET", "--json", "LINK"], "it is a device or a link, which would be replaced"),
        (["SET", "--json", "/dev/null"], "it is a device or a link, which would be replaced"),
        (["SET", "--json", "one", "--html", "one"], "--html names the same file"),
        (["SET", "--htm", "page.html"], "there is no such option (did you mean '--html'?)"),
    ],
)
def test_bad_input_is_refused_in_one_line(make_set, tmp_path, capsys, words, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    places = {"SET": make_set("one"), "EMPTY": str(tmp_path / "empty"), "FILE": str(tmp_path / "file")}
    places["LINK"] = str(tmp_path / "link")
    with pytest.raises(SystemExit) as exit:
        run(*(re.sub("SET|EMPTY|FILE|LINK", lambda found: places[found[0]], word) for word in words))
    assert exit.value.code == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and reason in error
    assert out == ""


def test_a_folder_among_the_records_is_none(make_set, capsys):
    location = make_set("one")
    run(location)
    before = capsys.readouterr().out
    Path(location, "evaluations", "quick-convnet-2-20260101T000000.json").mkdir()
    run(location)
    assert capsys.readouterr().out == before


def test_a_set_named_twice_is_read_once_and_two_of_a_name_are_told_apart(make_set, tmp_path):
    one = make_set("one")
    assert len(read_sets([one, one])) == 1
    (tmp_path / "copy" / "one").mkdir(parents=True)
    (tmp_path / "copy" / "manifest.json").write_bytes(Path(one, "manifest.json").read_bytes())
    assert [own.label for own in read_sets([one, str(tmp_path / "copy")])] == ["one", "copy"]
    shutil.copy(Path(one, "manifest.json"), tmp_path / "copy" / "one")
    sets = read_sets([one, str(tmp_path / "copy" / "one"), make_set("two")])
    assert [own.label for own in sets] == [f"{tmp_path.name}/one", "copy/one", f"{tmp_path.name}/two"]
    page = render_page(sets, compare(sets))
    assert "copy/one" in page and str(tmp_path.parent) not in page


# On the Hub.


def test_of_a_set_on_the_hub_only_manifest_records_and_preview_are_asked_for(make_set, monkeypatch):
    folder = Path(make_set("one"))
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    remote = RemoteSet("org/one", "c" * 40, False, {name: RemoteFile((folder / name).stat().st_size) for name in names})
    asked = []

    def fetch(remote, names, *, most_bytes):
        asked.extend(names)
        return folder

    monkeypatch.setattr(find, "look", lambda location, revision: remote)
    monkeypatch.setattr(find, "fetch", fetch)
    sets = read_sets(["org/one"])
    groups = compare(sets)
    page = Page(render_page(sets, groups))
    assert sorted(asked) == ["assets/preview.png", "evaluations/0.json", "manifest.json"]
    assert "data/train-00000-of-00001.parquet" in names and groups[0].rows[0].as_json()["data_bytes"] == 12_345
    assert groups[0].rows[0].as_json()["commit"] == "c" * 40
    links = [attributes["href"] for attributes, name in page.all("a") if name == "one"]
    assert links == ["#set-one", "https://huggingface.co/datasets/org/one"]
    rows = [attributes["id"] for attributes, _ in page.all("tr") if "id" in attributes]
    assert rows == ["org-one-quick-convnet2-20260102T030405Z"]
