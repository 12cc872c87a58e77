"""The card anew: what people wrote stays, what was generated follows the record."""

from pathlib import Path

import pytest
import yaml

from distill_hub.config import InputError
from distill_hub.publishing.readme import GENERATED, README, card_of, merge_card, readme_files

BEFORE = """---
license: mit
tags:
- dataset-distillation
configs:
- config_name: default
---

# set

Six images that stand in for 600.

## Results

| Student | Accuracy |
|---|---|
| convnet | 50.0 |

## Limitations

Few images.
"""
NOW = BEFORE.replace("| convnet | 50.0 |", "| convnet | 60.0 |\n| resnet | 70.0 |")


def block(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_an_untouched_card_is_replaced():
    assert merge_card(NOW, BEFORE, BEFORE) == NOW


@pytest.mark.parametrize(
    "edit",
    [
        ("## Limitations", "## Who made it\n\nAlice, in Graz.\n\n## Limitations"),
        ("Few images.", "Few images.\n\nBad at night scenes."),
        ("Few images.", "Few images, and bad at night scenes."),
        ("# set", "> Read this first.\n\n# set"),
        ("Six images that stand in for 600.", "A handful of images."),
        ("| convnet | 50.0 |", "| convnet | 50.0 |\n\nMeasured on a rainy day."),
    ],
)
def test_what_people_wrote_stays_and_the_table_is_new(edit):
    edited = BEFORE.replace(*edit)
    assert edited != BEFORE
    merged = merge_card(NOW, edited, BEFORE)
    written = set(edited.splitlines()) - set(BEFORE.splitlines())
    assert written and written <= set(merged.splitlines())
    assert "| convnet | 60.0 |" in merged and "| resnet | 70.0 |" in merged and "50.0" not in merged
    assert block(merged) == block(NOW)
    # The same card again: nothing is doubled.
    assert merge_card(NOW, merged, NOW) == merged


def test_a_line_that_people_and_program_both_changed_is_there_twice():
    merged = merge_card(BEFORE.replace("for 600", "for 700"), BEFORE.replace("for 600", "for many"), BEFORE)
    assert "stand in for 700." in merged and "stand in for many." in merged and "for 600" not in merged


def test_a_last_line_without_a_newline_runs_into_no_other():
    edited = BEFORE.replace("Few images.\n", "Few images, and dark.")
    now = BEFORE.replace("Few images.", "Too few images.")
    assert merge_card(now, edited, BEFORE).endswith("\nToo few images.\n\nFew images, and dark.\n")
    # The generated card's own last line, too.
    assert merge_card(now.rstrip(), edited, BEFORE).endswith("\nToo few images.\n\nFew images, and dark.\n")


def test_what_people_removed_stays_away_but_for_tables():
    removed = BEFORE.replace("Few images.\n", "").replace("| convnet | 50.0 |\n", "")
    merged = merge_card(BEFORE, removed, BEFORE)
    assert "Few images." not in merged
    assert "| convnet | 50.0 |" in merged


def test_altered_rows_are_written_again():
    merged = merge_card(BEFORE, BEFORE.replace("| convnet | 50.0 |", "| convnet | 99.9 |"), BEFORE)
    assert "| convnet | 50.0 |" in merged and "99.9" not in merged


def test_the_yaml_block():
    edited = BEFORE.replace("license: mit", "license: apache-2.0\nlanguage: en").replace(
        "- dataset-distillation", "- dataset-distillation\n- cats"
    )
    edited = edited.replace("config_name: default", "config_name: mine")
    now = NOW.replace("- dataset-distillation", "- dataset-distillation\n- ipc-2")
    assert block(merge_card(now, edited, BEFORE)) == {
        "license": "apache-2.0",  # changed by people
        "tags": ["dataset-distillation", "ipc-2", "cats"],
        "configs": [{"config_name": "default"}],  # load_dataset needs it
        "language": "en",
    }


def test_a_card_made_on_the_site_is_kept_below():
    merged = merge_card(BEFORE, "---\nlicense: gpl\ngated: true\n---\n# My images\n\nHello.", "")
    assert block(merged) == {**block(BEFORE), "gated": True}  # the licence was the site's choice, not a correction of ours
    assert merged.index("Few images.") < merged.index("# My images") < merged.index("Hello.")


def test_windows_newlines_of_an_editor():
    edited = BEFORE.replace("Few images.", "Few images.\n\nMine.").replace("\n", "\r\n")
    merged = merge_card(BEFORE, edited, BEFORE)
    assert "Mine." in merged and merged.count("# set") == 1


@pytest.mark.parametrize(
    "bomb",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "a: " + "[" * 3000 + "]" * 3000,
        "license: [unclosed",
        "just text",
        "!!python/object/apply:os.system ['touch /tmp/never']",
    ],
)
def test_a_hostile_yaml_block_is_refused(bomb):
    with pytest.raises(InputError, match="YAML block"):
        merge_card(BEFORE, f"---\n{bomb}\n---\ntext", BEFORE)


def test_files_of_a_card(build_manifest, tmp_path):
    manifest = build_manifest()("0" * 64)
    first = readme_files(manifest, (), location="org/x", files={}, edited=[])
    assert first[README] == first[GENERATED]
    (tmp_path / "assets").mkdir()
    (tmp_path / README).write_bytes(first[README] + b"\nMine.\n")
    (tmp_path / GENERATED).write_bytes(first[GENERATED])
    local = card_of(tmp_path)
    remote = (local[0] + "\nTheirs.\n", local[1])
    second = readme_files(manifest, (), location="org/y", files={}, edited=[local, remote])
    assert second[GENERATED].decode() == first[GENERATED].decode().replace("org/x", "org/y")
    text = second[README].decode()
    counted = ("Mine.", "Theirs.", 'load_dataset("org/y", split="train")', "org/x")
    assert [text.count(words) for words in counted] == [1, 1, 1, 0]


def test_a_card_that_is_no_text_is_refused(tmp_path):
    (tmp_path / README).write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        card_of(tmp_path)
    assert card_of(tmp_path / "nowhere") == ("", "")


# Cards of the first template: assets/card.md has one beside whatever people made of it.
OLD, NEW = ((Path(__file__).parent / "gold" / name).read_text(encoding="utf-8") for name in ("before.md", "full.md"))


def is_free(card, words):
    """Whether a line stands by itself: in no code, table, list or element that another line began."""
    before, after = card.split(f"{words}\n")
    return before.count("```") % 2 == 0 and before.endswith("\n\n") and (after.startswith("\n") or not after)


def test_what_people_wrote_anywhere_in_a_card_of_the_first_template_comes_out_whole():
    lines = OLD.splitlines(True)
    start = len("".join(OLD.partition("---\n\n")[:2]).splitlines())
    code = [text.count("```") % 2 for text in ("".join(lines[:i]) for i in range(len(lines) + 1))]
    places = [i for i in range(start, len(lines) + 1) if lines[i - 1] == "\n" and not code[i]]
    assert len(places) > 50
    for place in places[::5]:
        edited = "".join([*lines[:place], "Mine, all mine.\n\n", *lines[place:]])
        merged = merge_card(NEW, edited, OLD)
        assert merged.count("Mine, all mine.") == 1 and is_free(merged, "Mine, all mine."), place
        assert merged.replace("Mine, all mine.\n\n", "").replace("\n\nMine, all mine.\n", "\n") == NEW, place
        assert merge_card(NEW, merged, NEW) == merged


def test_an_altered_sentence_of_the_first_template_is_kept_once():
    for sentence in (
        "They were made with",
        "The images are synthetic:",
        "2 images per class cannot",
        "Compare the set with",
    ):
        edited = OLD.replace(sentence, f"In Graz, {sentence}")
        (line,) = set(edited.splitlines()) - set(OLD.splitlines())
        merged = merge_card(NEW, edited, OLD)
        assert merged.count(line) == 1 and merged.count("```") == NEW.count("```")
