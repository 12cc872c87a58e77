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
from distill_hub.artifact.records import RANDOM, Score
from distill_hub.comparing.rows import Row
from distill_hub.config import InputError
from distill_hub.disk.files import atomic_write

sys.path.append(str(Path(__file__).parent))  # at the end: for tests, which import this file as another module
from kept import RESULTS, Study, difference, spread, studies, verdict

ROOT = Path(__file__).parents[2]
PAGE, README, PUBLISHED = "cards/RESULTS.md", "README.md", "cards/published.yaml"
MARKERS = "<!-- results -->", "<!-- /results -->"
CORESET = "◆"
JUDGE = "judge/dsa-hard"
# The best known methods, of the table in README.md.
KNOWN = ("rded", "dm", "dsa", "idc", "mtt", "sre2l", "deda", "plain", "cao2", "psr")
NO_NUMBER = "-"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: columns of numbers stand at the right, the first one and words at the left.

    A number and its deviation stay on one line.
    """
    numbers = [all(cell[:1] in "0123456789+-*" for cell in cells if cell) for cells in zip(*rows, strict=True)]
    lines = [header, ["---", *["---:" if is_number else "---" for is_number in numbers[1:]]], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines).replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def paragraph(text: str) -> str:
    """Wrap a paragraph."""
    return textwrap.fill(text, 125, break_long_words=False, break_on_hyphens=False)


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
                f"[`{RESULTS}`](results) and the papers' figures in [`published.yaml`](published.yaml). Accuracies are in % "
                "of the test images, after the last epoch: mean ± sample standard deviation over students with other seeds, "
                "all on one set. The same sets as a page with plots: [`study.html`](study.html)."
            ),
            paragraph(
                f"In brackets: points above {RANDOM} images, which are drawn anew for each student. **Bold**: the best of a "
                f"column. {CORESET}: the best coreset. IPC: images per class."
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
            "precision of students": spread(record.environment.mixed_precision for record in records),
            "precision of sets": spread(sorted({made.environment.mixed_precision for made in sets if made.environment})),
            "Python": spread(record.environment.python for record in records),
            "packages": ", ".join(f"{name} {version}" for name, version in packages),
            "source": spread(_source(made.source) for made in sets),
        }
        yield "\n".join(
            textwrap.fill(f"- {name}: {value}", 125, subsequent_indent="  ", break_long_words=False)
            for name, value in facts.items()
        )
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
            yield paragraph(f"More than two standard errors above {RANDOM}: {self.above(study, name, sizes)}.")
            if missing := [f"`{own}`" for own in study.sets(name) if own not in study.names(name)]:
                yield paragraph(f"Not measured: {', '.join(missing)}.")

    def above(self, study: Study, name: str, sizes: Sequence[int]) -> str:
        """Say how many sets of a table are better than random real images, by images per class."""
        counts = []
        for ipc in sizes:
            rows = [row for row in study.of(name) if row.set.manifest.ipc == ipc and row.random]
            better = sum(verdict(row.record.score, row.random) == "holds" for row in rows)
            counts.append(f"{better} of {len(rows)} sets at IPC {ipc}")
        return ", ".join(counts)

    def lines(self, study: Study, name: str, sizes: Sequence[int], known: Sequence[str] = ()) -> Iterator[list[str]]:
        """Return the lines of a table: random real images, the methods (all, or those known), and all real images."""
        best = {ipc: max(row.record.score.mean for row in study.of(name) if row.set.manifest.ipc == ipc) for ipc in sizes}
        random = {ipc: study.score(name, "random", ipc) for ipc in sizes}
        yield [f"*{RANDOM}*", *[score.percent() if (score := random[ipc]) else NO_NUMBER for ipc in sizes]]
        if known:
            coresets = [study.best_coreset(name, ipc) for ipc in sizes]
            yield ["*best coreset*", *[score.percent() if score else NO_NUMBER for score in coresets]]
        for own, title in study.names(name).items():
            if known and own not in known:
                continue
            rows = [study.rows.get((name, own, ipc)) for ipc in sizes]
            yield [title, *[_cell(row, best[ipc]) if row else NO_NUMBER for row, ipc in zip(rows, sizes, strict=True)]]
        if real := study.all_real(study.tables[name][0]):
            yield ["*all real images*", *[percent(real)] * len(sizes)]

    def figures(self, study: Study) -> Iterator[tuple[dict[str, Any], int, str, str, Score]]:
        """Return what papers print of a source with what is measured beside it: figure, IPC, table, set and score."""
        for figure in self.published["figures"]:
            for ipc in figure["accuracy"] if figure["source"] == study.folder.name else ():
                found = ((name, study.first(name, figure["sets"], ipc)) for name in figure["tables"])
                if beside := next(((name, *one) for name, one in found if one), None):
                    yield figure, ipc, *beside

    def beside_papers(self, study: Study) -> Iterator[str]:
        """Return a table of papers' figures and ours, with what is known to differ."""
        rows = []
        for figure, ipc, name, own, score in self.figures(study):
            row = study.rows.get((name, own, ipc))
            claim, (student, protocol) = figure["accuracy"][ipc], study.tables[name]
            title = study.names(name)[own] if own != "random" else f"*{RANDOM}*"
            gap = points(score.mean - claim[0] / 100)
            why = "; ".join(_why(figure, ipc, row if own != "random" else None))
            theirs = {figure["network"]: student, figure.get("protocol", protocol): protocol}
            other = ", ".join(name for name, same in theirs.items() if name != same)
            trained = f"{student}, {protocol}{f'; paper: {other}' * bool(other)}"
            rows.append([title, str(ipc), printed(claim), score.percent(), gap, trained, why, self.read(figure)])
        if rows:
            yield "### Paper against ours"
            yield paragraph(
                "The papers' figures are theirs, on the original data: nothing of them was measured here. What differs is "
                "read from the manifest of each set where it is on record. Here, the students of a row share one set, and "
                "are tested once, at their end."
            )
            header = ["", "IPC", "paper", "ours", "ours - paper", "student", "what else differs here", "whose figure"]
            yield table(header, rows)

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
                numbers = " > ".join(f"{value:.1f}" for value in said) if all(said) else "no number for this IPC"
                where = claim.get("where", "this source")
                gap, error = difference(*pair)
                holds = verdict(*pair)
                count[holds] += 1
                rows.append(
                    [
                        " > ".join(names[own] for own, _ in found),
                        str(ipc),
                        f"{numbers} ({where})",
                        " against ".join(score.percent() for score in pair),
                        f"{points(gap)} ± {100 * error:.1f}",
                        f"**{holds}**" if holds == "does not hold" else holds,
                        ", ".join(study.tables[name]),
                        self.read(claim),
                    ]
                )
        if rows:
            yield "### What papers find better, and whether it is so here"
            counted = ", ".join(f"{name}: {number}" for name, number in count.items())
            yield paragraph(
                f"Claims that these records can test: {len(rows)} ({counted}). One holds, or does not, when the means are "
                "apart by more than two standard errors of their difference (Welch); the students are the samples, so that "
                "a set of another seed may say otherwise."
            )
            header = ["claim", "IPC", "paper", "ours", "difference ± standard error", "verdict", "student", "whose claim"]
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
            if ipc == 10 and study.tables[name][0] == figure["network"]
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
            f"{len(record.seeds)} seeds); in brackets, points above random real images. The last columns: a student as in "
            "the method's paper, here and there. What optimises images takes far fewer steps here than in its paper, and "
            "this copy of the images was compressed once more."
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
    gain = f" ({points(row.difference)})" if row.difference is not None else ""
    is_best = row.best_coreset is not None and row.set.manifest.method.name in CORESETS and row.over_coreset == 0
    return f"{shown}{gain}{f' {CORESET}' * is_best}"


def _why(figure: dict[str, Any], ipc: int, row: Row | None) -> Iterator[str]:
    """Say what beside the student tells a set of ours from a paper's, from its manifest where that says it."""
    if row:
        made = row.set.manifest
        for name, value in figure.get("settings", {}).items():
            theirs, ours = value.get(ipc) if isinstance(value, dict) else value, made.method.config.get(name)
            if None not in (theirs, ours) and float(ours) != float(theirs):
                yield f"`{name}` {ours:,g}, the paper's {theirs:,g}"
        network = made.method.config.get("network", "auto")
        if network not in ("auto", figure["network"]):
            yield f"matched in {network}, the paper's {figure['network']}"
        if made.teacher and figure["network"].startswith("timm/"):
            right = f", {percent(made.teacher.test_accuracy)} % right" if made.teacher.test_accuracy else ""
            yield f"teacher {made.teacher.architecture}{right}"
    if reason := figure.get("reason"):
        yield reason


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
