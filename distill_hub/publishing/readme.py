"""The card as files: what is generated is written anew, and what people wrote in it stays."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.utils import yaml_dump

from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.records import EvaluationRecord
from distill_hub.config import InputError
from distill_hub.parsing import CARD_BYTES, front_matter, read_file
from distill_hub.publishing.card import render_card
from distill_hub.publishing.merge import regions

README = "README.md"
GENERATED = "assets/card.md"  # the card as it was generated: what README.md has beyond it, people wrote
_OF_THE_DATA = ("dataset_info", "configs")  # YAML that load_dataset needs: never people's


def card_of(folder: Path) -> tuple[str, str]:
    """Return README.md of a folder, and the card as it was generated; '' for what is not there.

    Raises:
        InputError: For a file of absurd size, or one that is not text.
    """
    texts = []
    for file in (folder / README, folder / GENERATED):
        try:
            texts.append(read_file(file, CARD_BYTES).decode() if file.exists() else "")
        except ValueError as error:
            raise InputError("card", str(file), f"UTF-8 text is needed ({error})") from error
    return texts[0], texts[1]


def readme_files(
    manifest: Manifest,
    evaluations: Sequence[EvaluationRecord],
    *,
    location: str,
    files: Mapping[str, int],
    edited: Iterable[tuple[str, str]],
) -> dict[str, bytes]:
    """Write the card of a set anew.

    Args:
        manifest: See `render_card`.
        evaluations: See `render_card`.
        location: See `render_card`.
        files: See `render_card`.
        edited: Cards that people may have edited, each with the card as it was generated ('' when that is not known).

    Returns:
        Content of README.md and of assets/card.md.

    Raises:
        InputError: When the YAML block of an edited card cannot be read.
    """
    return card_files(render_card(manifest, evaluations, location=location, files=files), edited)


def card_files(generated: str, edited: Iterable[tuple[str, str]]) -> dict[str, bytes]:
    """Write a generated card with what people wrote in earlier ones; see `readme_files`."""
    readme = generated
    for card, before in edited:
        readme = merge_card(readme, card, before)
    return {README: readme.encode(), GENERATED: generated.encode()}


def merge_card(generated: str, edited: str, before: str) -> str:
    """Carry what people changed in a card over into the one generated now.

    Lines they added or rewrote stay; where a line was both rewritten and generated differently, both stay. A table that was
    generated states what is on record: rows that people altered or removed are written again. Of the YAML block, keys
    they added or changed stay, except those that describe the data; tags of both are kept.

    Args:
        generated: The card generated now.
        edited: The card with people's changes.
        before: The card they changed; '' when it is not known: then all of `edited` counts as people's.

    Returns:
        The card to publish.

    Raises:
        InputError: When a YAML block cannot be read.
    """
    if edited == before:
        return generated
    (new, body), (theirs, their_body), (old, old_body) = _parts(generated), _parts(edited), _parts(before)
    merged = dict(new)
    for key, value in theirs.items():
        if key == "tags":
            merged[key] = list(dict.fromkeys([*new.get(key, []), *_added(value, old.get(key))]))
        elif key not in new or (key in old and value != old[key] and key not in _OF_THE_DATA):
            merged[key] = value
    block = yaml_dump(merged, sort_keys=False)
    return f"---\n{block}---\n{_merge_lines(body, their_body, old_body)}"


def _added(value: Any, before: Any) -> list[str]:
    values, known = (x if isinstance(x, list) else [] for x in (value, before))
    return [str(v) for v in values if v not in known]


def _merge_lines(generated: str, edited: str, before: str) -> str:
    new, old = generated.splitlines(True), before.splitlines(True)
    theirs = _with_generated_tables(edited.splitlines(True), old)
    result = []
    for region in regions(old, new, theirs):
        lines = region.settled
        if lines is None:
            known = {*region.base, *region.ours} - {"\n"}
            written = _whole([line for line in region.theirs if line not in known])
            # Between empty lines: what stands before may be HTML, which goes on to the next one.
            lines = [*_whole(list(region.ours)), "\n", *written, "\n"] if set(written) - {"\n"} else region.ours
        result += lines
        _whole(result)
    return re.sub(r"\n{3,}", "\n\n", "".join(result)).rstrip("\n") + "\n"


def _with_generated_tables(edited: list[str], before: list[str]) -> list[str]:
    result = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, before, edited, autojunk=False).get_opcodes():
        if kind in ("replace", "delete") and any(line.startswith("|") for line in before[a:b]):
            result += [*before[a:b], *(line for line in edited[c:d] if not line.startswith("|"))]
        else:
            result += edited[c:d]
    return result


def _whole(lines: list[str]) -> list[str]:
    """End the last line, which an edit may have left without a newline."""
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return lines


def _parts(card: str) -> tuple[dict[str, Any], str]:
    """Split a card into its YAML block and its text."""
    try:
        return front_matter(card)
    except ValueError as error:
        valid = f"the YAML block at its top cannot be read: mend it on the Hub ({error})"
        raise InputError("card", README, valid) from error
