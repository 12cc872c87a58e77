"""What the study found, as pages: cards/RESULTS.md and the table of README.md, from cards/results and cards/published.yaml.

    python tests/bench/results_page.py           # writes both
    python tests/bench/results_page.py --check   # exit code 1 where they are not what the records say

Every number of them is of a record, or of a paper as cards/published.yaml has it; none is typed into a page.
"""

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from distill_hub.artifact.names import CORESETS
from distill_hub.artifact.records import OWN, RANDOM, Score
from distill_hub.comparing.rows import Row, welch_p
from distill_hub.config import InputError
from distill_hub.disk.files import atomic_write

sys.path.append(str(Path(__file__).parent))  # at the end: for tests, which import this file as another module
from kept import LARGEST_P, RESULTS, Study, difference, spread, studies, unlike_paper, verdict

ROOT = Path(__file__).parents[2]
PAGE, README, PUBLISHED = "cards/RESULTS.md", "README.md", "cards/published.yaml"
MARKERS = "<!-- results -->", "<!-- /results -->"
CORESET, COLLAPSED = "◆", "†"
JUDGE = "judge/dsa-hard"
# The best known methods, of the table in README.md.
KNOWN = ("rded", "dm", "dsa", "idc", "mtt", "sre2l", "deda", "plain", "cao2", "psr")
NO_NUMBER, NBSP = "-", "\N{NO-BREAK SPACE}"
REAL = "all real images"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: columns of numbers stand at the right, the first one and words at the left.

    A number and its deviation stay on one line.
    """
    numbers = [all(cell[:1] in "0123456789+-*" for cell in cells if cell) for cells in zip(*rows, strict=True)]
    lines = [header, ["---", *["---:" if is_number else "---" for is_number in numbers[1:]]], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines).replace(" ± ", f"{NBSP}±{NBSP}")


def paragraph(text: str, indent: str = "") -> str:
    """Wrap a paragraph, or an item of a list, whose further lines are indented."""
    return textwrap.fill(text, 125, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def percent(accuracy: float) -> str:
    """Return a fraction in percent."""
    return f"{100 * accuracy:.1f}"


def printed(figure: Sequence[float]) -> str:
    """Return a paper's figure as it prints it: a mean, and a deviation where there is one."""
    return " ± ".join(f"{value:.1f}" for value in figure)


def points(fraction: float) -> str:
    """Return a difference of accuracies in points, signed."""
    return f"{100 * fraction:+.1f}"


def block(readme: Path) -> tuple[str, str, str]:
    """Return README.md up to its table, the table, and the rest; where it has no place for one, it is all before it."""
    before, start, rest = readme.read_text(encoding="utf-8").partition(MARKERS[0])
    inside, end, after = rest.partition(MARKERS[1])
    return before + start, inside, end + after


class Page:
    """The pages of a checkout.

    Args:
        root: Of the checkout.
    """

    def __init__(self, root: Path):
        self.root, self.studies = root, studies(root)
        self.published = yaml.safe_load((root / PUBLISHED).read_text(encoding="utf-8")) if self.studies else {}

    def files(self) -> dict[Path, str]:
        """Return what the files must hold. None where no results are kept.

        Raises:
            InputError: Where README.md has no place for its table.
        """
        if not self.studies:
            return {}
        readme = self.root / README
        before, _, after = block(readme)
        if not (before.endswith(MARKERS[0]) and after):
            raise InputError(README, "no place for results", f"the lines {' and '.join(MARKERS)} around it are needed")
        return {self.root / PAGE: self.page(), readme: f"{before}\n{self.readme()}\n{after}"}

    def page(self) -> str:
        """Return cards/RESULTS.md."""
        parts = [
            "# Results",
            paragraph(
                "Made by `python tests/bench/results_page.py` from the manifests and records in "
                f"[`{RESULTS}`](results) and the papers' figures in [`published.yaml`](published.yaml). Accuracies are in "
                "% of the test images, after the last epoch: mean ± sample standard deviation over students of other seeds "
                "that share one set. The same sets as a page with plots: [`study.html`](study.html)."
            ),
            paragraph(
                f"In brackets: points above {RANDOM} images, which are drawn anew for each student. **Bold**: the best set "
                f"of a column. {CORESET}: the best coreset. {COLLAPSED}: a student or more [collapsed]"
                f"(FORMAT.md#evaluation-records). *{REAL}*: one such network, fitted to them as teachers are, not by the "
                "protocol of the table. IPC: images per class. A heading has the name of a table in the plan, the student "
                "and its [protocol](../recipes/PROTOCOLS.md)."
            ),
            paragraph(
                f"Two means differ here where Welch's t-test gives p < {LARGEST_P}. The students are its samples: a set of "
                "another seed may do otherwise. Nothing is corrected for the number of tests."
            ),
        ]
        for study in self.studies:
            parts += [f"## {study.title}", *self.run(study), *self.measured(study), *self.beside_papers(study)]
            parts += [*self.orderings(study), *self.words(study), *self.fitted(study)]
        return "\n\n".join(parts) + "\n"

    def run(self, study: Study) -> Iterator[str]:
        """Say by what, on what and when it was measured."""
        rows = list(study.rows.values())
        records = [row.record for row in rows]
        sets = {row.set.found.location: row.set.manifest for row in rows}.values()
        plan = f"tests/bench/plans/{study.folder.name}.yaml"
        yield f"    python tests/bench/study.py {plan} --folder outputs/study"
        packages = dict.fromkeys(item for record in records for item in record.environment.packages.items())
        dates = sorted(record.date for record in records)
        hours = [sum(stage.seconds for made in sets for stage in made.stages), sum(record.seconds for record in records)]
        facts = {
            "on record": f"{len(sets)} sets, {len(records)} measurements",
            "seeds of students": spread(", ".join(map(str, record.seeds)) for record in records),
            "seed of sets": spread(made.seed for made in sets),
            "sets made": f"{spread(sorted(f'{made.created:%Y-%m-%d}' for made in sets))}, in {hours[0] / 3600:.1f} hours",
            "students trained": f"{spread(f'{date:%Y-%m-%d}' for date in dates)}, in {hours[1] / 3600:.1f} hours",
            "machine": spread(r.environment.hardware for r in records),
            "`--mixed_precision` of students": spread(record.environment.mixed_precision for record in records),
            "`--mixed_precision` of sets": spread(
                sorted({made.environment.mixed_precision for made in sets if made.environment})
            ),
            "Python": spread(record.environment.python for record in records),
            "packages": ", ".join(f"{name} {version}" for name, version in packages),
            "source": spread(_source(made.source) for made in sets),
        }
        yield "\n".join(paragraph(f"- {name}: {value}", "  ") for name, value in facts.items())
        if note := self.published["sources"].get(study.folder.name):
            yield paragraph(note)

    def measured(self, study: Study) -> Iterator[str]:
        """Return a table for each student and protocol: methods by images per class."""
        for name, (student, _) in study.tables.items():
            rows = study.of(name)
            if not rows:
                continue
            yield f"### {name.partition('/')[0].capitalize()}: {student}, {rows[0].record.protocol_label}"
            sizes = [ipc for ipc in study.ipc(name) if any(row.set.manifest.ipc == ipc for row in rows)]
            yield table(["", *[f"IPC {ipc}" for ipc in sizes]], list(self.lines(study, name, sizes)))
            if above := self.above(study, name, sizes):
                yield paragraph(f"Above {RANDOM} images at p < {LARGEST_P}: {above}.")
            if missing := [f"`{own}`" for own in study.sets(name) if own not in study.names(name)]:
                yield paragraph(f"Not measured: {', '.join(missing)}.")

    def above(self, study: Study, name: str, sizes: Sequence[int]) -> str:
        """Say how many other sets of a table are better than random real images, by images per class."""
        counts = []
        for ipc in sizes:
            found = (study.rows.get((name, own, ipc)) for own in study.sets(name) if own != "random")
            rows = [row for row in found if row and row.random]
            better = sum(verdict(row.record.score, row.random) == "holds" for row in rows)
            counts += [f"{better} of {len(rows)} sets at IPC {ipc}"] if rows else []
        return ", ".join(counts)

    def lines(self, study: Study, name: str, sizes: Sequence[int], known: Sequence[str] = ()) -> Iterator[list[str]]:
        """Return the lines of a table: random real images, the methods (all, or those known), and all real images."""
        best = {ipc: max(row.record.score.mean for row in study.of(name) if row.set.manifest.ipc == ipc) for ipc in sizes}
        random = [study.score(name, "random", ipc) for ipc in sizes]
        fell = {row.set.manifest.ipc for row in study.of(name) if RANDOM in row.collapsed}
        marks = [f" {COLLAPSED}" * (ipc in fell) for ipc in sizes]
        shown = [score.percent() + mark if score else NO_NUMBER for score, mark in zip(random, marks, strict=True)]
        yield [f"*{RANDOM}*", *shown]
        if known:
            coresets = [study.best_coreset(name, ipc) for ipc in sizes]
            yield ["*best coreset*", *[score.percent() if score else NO_NUMBER for score in coresets]]
        for own, title in study.names(name).items():
            if known and own not in known:
                continue
            rows = [study.rows.get((name, own, ipc)) for ipc in sizes]
            yield [title, *[_cell(row, best[ipc]) if row else NO_NUMBER for row, ipc in zip(rows, sizes, strict=True)]]
        if real := study.all_real(study.tables[name][0]):
            yield [f"*{REAL}*", *[percent(real)] * len(sizes)]

    def figures(self, study: Study) -> Iterator[tuple[dict[str, Any], int, str, str, Score]]:
        """Return what papers print of a source with what is measured beside it: figure, IPC, table, set and score."""
        for figure in self.published["figures"]:
            for ipc in figure["accuracy"] if figure["source"] == study.folder.name else ():
                found = ((name, study.first(name, figure["sets"], ipc)) for name in figure["tables"])
                if beside := next(((name, *one) for name, one in found if one), None):
                    yield figure, ipc, *beside

    def beside_papers(self, study: Study) -> Iterator[str]:
        """Return a table of papers' figures and ours, and with what is known to differ a list of whose they are."""
        rows: list[list[str]] = []
        notes: dict[str, tuple[list[int], dict[str, list[int]]]] = {}  # of each figure, for which IPC each difference is
        for figure, ipc, name, own, score in self.figures(study):
            row, claim = study.rows.get((name, own, ipc)), figure["accuracy"][ipc]
            title = study.names(name)[own] if own != "random" else f"*{RANDOM}*"
            gap = points(score.mean - claim[0] / 100)
            rows.append([title, str(ipc), printed(claim), score.percent(), gap, ", ".join(study.tables[name])])
            sizes, whys = notes.setdefault(f"{title}: {self.read(figure)}", ([], {}))
            sizes.append(ipc)
            for why in unlike_paper(figure, ipc, row if own != "random" else None, *study.tables[name]):
                whys.setdefault(why, []).append(ipc)
        if not rows:
            return
        yield "### Paper against ours"
        yield paragraph(
            "The papers' figures are theirs, on the original data: nothing of them was measured here. Here, students are "
            "tested once, at their end, and those of a row share one set, but for random real images."
        )
        yield table(["", "IPC", "paper", "ours", "ours - paper", "student here"], rows)
        yield "Whose figures these are, and what differs here beside the data, from the sets' manifests where they have it:"
        lines = []
        for head, (sizes, whys) in notes.items():
            differs = [why if of == sizes else f"{why} (IPC {', '.join(map(str, of))})" for why, of in whys.items()]
            lines.append(paragraph(f"- {'; '.join([head, *differs])}.", "  "))
        yield "\n".join(lines)

    def read(self, entry: dict[str, Any]) -> str:
        """Say whose a figure or claim is, and where it was read."""
        papers, own = self.published["papers"], entry["paper"]
        place = entry.get("read", "")
        if entry.get("in", own) != own:
            place = f"by {place} of {papers[entry['in']]}"
        return ", ".join(filter(None, (papers[own], place)))

    def orderings(self, study: Study) -> Iterator[str]:
        """Return a table of what papers find one better than the other, and whether it is so here."""
        rows, count = [], dict.fromkeys(("holds", "within the noise", "does not hold"), 0)
        for claim in self.published["orderings"]:
            if claim["source"] != study.folder.name:
                continue
            for ipc in claim["ipc"]:
                sides = [own if isinstance(own, list) else [own] for own in (claim["better"], claim["worse"])]
                pairs = ((t, [study.first(t, own, ipc) for own in sides]) for t in claim["tables"])
                name, found = next(((t, pair) for t, pair in pairs if all(pair)), (None, ()))
                if not name:
                    continue
                names = {**study.names(name), "random": RANDOM}
                said = claim.get("numbers", {}).get(ipc) or [self.printed(study, own, ipc) for own in sides]
                pair = [score for _, score in found]
                gap, error = difference(*pair)
                holds, p = verdict(*pair), welch_p(*pair)
                count[holds] += 1
                rows.append(
                    [
                        " > ".join(names[own] for own, _ in found),
                        str(ipc),
                        f"{NBSP}>{NBSP}".join(f"{value:.1f}" for value in said) if all(said) else NO_NUMBER,
                        f",{NBSP}".join(percent(score.mean) for score in pair),
                        f"{points(gap)} ± {100 * error:.1f}",
                        NO_NUMBER if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001",
                        f"**{holds}**" if holds == "does not hold" else holds,
                        name.replace("/", ", "),
                        ", ".join(filter(None, (self.read(claim), claim.get("where")))),
                    ]
                )
        if rows:
            yield "### What papers find better, and whether it is so here"
            counted = ", ".join(f"{name}: {number}" for name, number in count.items())
            yield paragraph(
                f"Claims that these records can test: {len(rows)} ({counted}). The papers' figures are of this source "
                "unless the last column says of what; -: they print none for this IPC. Ours are of the table that is named, "
                "the difference is ± its standard error."
            )
            header = ["claim", "IPC", "paper", "ours", "difference", "p", "verdict", "table", "whose claim"]
            yield table(header, rows)

    def printed(self, study: Study, names: Sequence[str], ipc: int) -> float | None:
        """Return the figure of a set, by one of its names, that papers print for a source."""
        sets = (f for f in self.published["figures"] if f["source"] == study.folder.name and {*names} & {*f["sets"]})
        return next((figure["accuracy"][ipc][0] for figure in sets if ipc in figure["accuracy"]), None)

    def words(self, study: Study) -> Iterator[str]:
        """Return the recipe and the words of each set that was measured, and of the models of the plan."""
        made: dict[tuple[str, str, str], dict[int, None]] = {}
        for (_, name, ipc), row in study.rows.items():
            words, environment = study.plan["sets"][name], row.set.manifest.environment
            words = words if isinstance(words, str) else words[ipc]
            made.setdefault((name, words, environment.mixed_precision if environment else NO_NUMBER), {})[ipc] = None
        lines = [
            [f"`{name}`", ", ".join(map(str, sorted(sizes))), precision, f"`{' '.join(words.split())}`"]
            for (name, words, precision), sizes in made.items()
        ]
        models = study.plan["models"].items()
        lines += [[f"`{{models}}/{name}`", "", "", f"`{' '.join(words.split())}`"] for name, words in models]
        lead = paragraph(
            "After `distill-hub make`, with `--ipc`, the source, `--mixed_precision` as below, and as teacher "
            f"`{{models}}/{study.plan['teacher']}` where none is named."
        )
        listed = table(["set", "IPC", "precision", "words"], lines)
        yield "\n\n".join(["<details><summary>How each set was made</summary>", lead, listed, "</details>"])

    def fitted(self, study: Study) -> Iterator[str]:
        """Return the classifiers that were trained for it, on all real images."""
        rows = [
            [f"`{name}`", facts["network"], str(facts["settings"].get("epochs", NO_NUMBER)), percent(facts["test_accuracy"])]
            for name, facts in study.models.items()
            if facts["test_accuracy"] is not None
        ]
        if rows:
            listed = table(["trained on all real images", "network", "epochs", "test accuracy"], rows)
            yield "\n\n".join(["<details><summary>Classifiers</summary>", listed, "</details>"])

    def readme(self) -> str:
        """Return the table of README.md: the best known methods, and beside them what their papers print."""
        study = next((one for one in self.studies if JUDGE in one.tables and one.of(JUDGE)), None)
        if study is None:
            return ""
        rows = study.of(JUDGE)
        sizes = [ipc for ipc in study.ipc(JUDGE) if any(row.set.manifest.ipc == ipc for row in rows)]
        titles = {title: name for name, title in study.names(JUDGE).items()}
        beside = {
            own: [score.percent(), printed(figure["accuracy"][ipc])]
            for figure, ipc, name, _, score in self.figures(study)
            if ipc == 10 and study.tables[name][0] == figure.get("network")
            for own in figure["sets"]
        }
        lines = []
        for title, *cells in self.lines(study, JUDGE, sizes, KNOWN):
            name = "random" if title == f"*{RANDOM}*" else titles.get(title, "")
            lines.append([title, *cells, *beside.get(name, ["", ""])])
        student, _ = study.tables[JUDGE]
        record = rows[0].record
        caption = (
            f"{study.title.partition(':')[0]}: test accuracy in % of a {student} ({record.protocol_label}, "
            f"{len(record.seeds)} seeds), from hard labels alone, even of sets that are made for soft ones; in brackets, "
            f"points above {RANDOM} images. The last columns: the network of the method's paper, here and there. What "
            "optimises images takes far fewer steps here than in its paper, and this copy was compressed once more. "
            f"{REAL.capitalize()}: one network, fitted as teachers are. {COLLAPSED}: students collapsed."
        )
        header = ["", *[f"IPC {ipc}" for ipc in sizes], "own network, IPC 10", "its paper"]
        return f"{table(header, lines)}\n\n{paragraph(caption)}"


def _source(source: Any) -> str:
    place = f"{source.hub_id} at {source.revision}" if source.hub_id else "a local copy"
    return f"{place}, fingerprint {source.fingerprint[:16]}, {source.test_images:,} test images"


def _cell(row: Row, best: float) -> str:
    """Return a score, with what it gains over random real images and whether it is the best."""
    score = row.record.score
    shown = f"**{score.percent()}**" if score.mean == best else score.percent()
    shown += f" {COLLAPSED}" * (OWN in row.collapsed)
    gain = f" ({points(row.difference)})" if row.difference is not None else ""
    is_best = row.best_coreset is not None and row.set.manifest.method.name in CORESETS and row.over_coreset == 0
    return f"{shown}{gain}{f' {CORESET}' * is_best}"


def stale(root: Path) -> str | None:
    """Return what is not as the records of a checkout say, in words; None where all is."""
    page = Page(root)
    files, unlike = page.files(), [line for study in page.studies for line in study.unlike_plan()]
    if unlike:
        return f"{RESULTS} is not by the plans: {'; '.join(unlike)}"
    if not files and ((root / PAGE).exists() or block(root / README)[1].strip()):
        return f"{PAGE} or the table in {README} shows results, but none are kept in {RESULTS}"
    wrong = [file for file, text in files.items() if not file.exists() or file.read_text(encoding="utf-8") != text]
    named = " and ".join(file.relative_to(root).as_posix() for file in wrong)
    return f"{named}: not what the records say; python tests/bench/results_page.py writes it" if wrong else None


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a page is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the checkout")
    args = parser.parse_args()
    if args.check:
        sys.exit(stale(args.root))
    for file, text in Page(args.root).files().items():
        atomic_write(file, text.encode())


if __name__ == "__main__":
    main()
