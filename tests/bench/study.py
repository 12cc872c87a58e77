"""What the methods are worth on one source, by a plan: sets are made once, and scored side by side. By hand.

    python tests/bench/study.py tests/bench/plans/cifar10.yaml --folder outputs/study

A plan (tests/bench/plans) names models, which are fitted as they are needed, sets with their recipes and words, and tables:
which sets train which student, under which protocols. Students have the seeds 0, 1, 2, all on one set of seed 0; random real
images are drawn anew for each of them. The same command goes on where it was stopped: a set that is there is not made
again, nor scored again under a protocol that it has a record of; to make one anew, remove its folder. --tables, --sets and
--ipc pick a part; several tables may run side by side. What is scored is kept without its images in --kept, of which
tests/bench/results_page.py makes cards/RESULTS.md, and

    distill-hub leaderboard outputs/study/*/*-ipc* --html cards/study.html

a page.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from distill_hub import load_distilled
from distill_hub.artifact.find import MANIFEST, read_records
from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.records import OWN, RANDOM, EvaluationRecord, Score
from distill_hub.artifact.sizes import data_bytes
from distill_hub.data.sources import load_source
from distill_hub.disk.files import atomic_write
from distill_hub.evaluation.scores import Trial, measure, settings_of
from distill_hub.making.finish import write_card
from distill_hub.running.console import show
from distill_hub.running.run import Run
from distill_hub.teachers.open import open_teacher
from distill_hub.training.protocols import Protocol, protocol
from distill_hub.training.subject import HeldOut, Subject, label_temperature, student_rate
from distill_hub.training.train import TrainingSet

SEEDS = range(3)
MODEL_FILES = ("config.json", "cost.json", "model_index.json", "README.md")  # what is kept of a model


class Study:
    """A plan at work in a folder.

    Args:
        args: The command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.args, self.plan = args, yaml.safe_load(args.plan.read_text())
        real = {"source": args.source or self.plan["source"], "normalization": args.normalization}
        self.source = {name: value for name, value in real.items() if value}
        self.folder, self.kept = args.folder / args.plan.stem, args.kept / args.plan.stem
        os.environ["ACCELERATE_MIXED_PRECISION"] = self.plan["mixed_precision"]  # of students

    def recipe(self, words: str, folder: Path, *more: str) -> None:
        """Run a recipe, unless its folder is finished."""
        if (folder / "README.md").is_file() or (folder / "model_index.json").is_file():
            return
        words = words.format(models=self.folder / "models").split()
        named = {"mixed_precision": self.plan["mixed_precision"], **self.source}
        options = [text for name, value in named.items() for text in (f"--{name}", value)]
        command = [sys.executable, "-m", "distill_hub.cli", "make", words[0], *options, *more, *words[1:]]
        subprocess.run([*command, "--output_dir", str(folder)], check=True)

    def model(self, name: str) -> Path:
        """Fit a model of the plan, and keep what is known of it."""
        folder = self.folder / "models" / name
        self.recipe(self.plan["models"][name], folder)
        for file in filter(Path.is_file, (folder / file for file in MODEL_FILES)):
            atomic_write(self.kept / "models" / name / file.name, file.read_bytes())
        return folder

    def words(self, name: str, ipc: int) -> str | None:
        """Return what makes a set; None where the plan has nothing for so many images."""
        words = self.plan["sets"][name]
        return words if isinstance(words, str) else words.get(ipc)

    def set(self, name: str, ipc: int) -> Path:
        """Make a set, and the models that it needs, without scores."""
        words, folder = self.words(name, ipc), self.folder / f"{name}-ipc{ipc}"
        teacher = () if "--teacher" in words else ("--teacher", f"{{models}}/{self.plan['teacher']}")
        words = " ".join([words, *teacher])
        for needed in re.findall(r"{models}/([\w-]+)", words):
            self.model(needed)
        self.recipe(words, folder, "--ipc", str(ipc), "--score", "no", "--view_epochs", "0")
        return folder

    def keep(self, folder: Path) -> None:
        """Write the card anew, and keep what the set says of itself: manifest, records and card, without images."""
        made = load_distilled(str(folder))
        write_card(folder, made.manifest, torch.from_numpy(made.pixels))
        for name in (MANIFEST, *self.records(folder)):
            atomic_write(self.kept / folder.name / name, (folder / name).read_bytes())
        card = re.sub(r"\n!\[[^\]]*\]\(assets/[^)]*\)\n", "", (folder / "README.md").read_text())
        atomic_write(self.kept / folder.name / "README.md", card.encode())

    def records(self, folder: Path) -> dict[str, EvaluationRecord]:
        """Return what is on record of a set as it is now, by file."""
        if not (folder / MANIFEST).is_file():
            return {}
        content = Manifest.read(folder / MANIFEST).content_sha256
        return {name: record for name, record in read_records(folder).items() if record.content_sha256 == content}

    def scored(self, judge: "Judge", name: str, ipc: int, rules: Protocol) -> EvaluationRecord | None:
        """Return what is on record of the students of a set as it is now, if it is."""
        records = self.records(self.folder / f"{name}-ipc{ipc}").values()
        return next((record for record in records if judge.made(record, rules)), None)

    def score(self, name: str) -> None:
        """Score the sets of a table, IPC by IPC."""
        table = self.plan["tables"][name]
        teacher = self.model(table["teacher"])
        run = Run(self.folder / "students" / name, {**self.source, "teacher": str(teacher)})
        test = HeldOut(load_source(**self.source))
        named = {"teacher": str(teacher), "teacher_revision": None, "teacher_epochs": None, "seed": 0}
        judge = Judge(run, test, open_teacher(run, test, None, **named), table)
        for ipc, rules in self.rounds(table):
            known = (self.scored(judge, own, ipc, rules) for own in table["sets"])
            random = next((record.baselines[RANDOM] for record in known if record), None)
            random = random or judge.drawn(self.set("random", ipc), rules, ipc)
            show(f"{name}, {rules.name}, IPC {ipc}, {RANDOM}: {random.percent()}")
            for own in self.args.sets or table["sets"]:
                if not self.words(own, ipc) or self.scored(judge, own, ipc, rules):
                    continue
                folder = self.set(own, ipc)
                record = judge.record(folder, rules, random)
                atomic_write(folder / "evaluations" / record.file_name, record.to_json().encode())
                self.keep(folder)
                show(f"{name}, {rules.name}, IPC {ipc}, {own}: {record.score.percent()} ({record.score.last})")
        if (real := f"all-real-{table['student'].replace('/', '-')}") in self.plan["models"]:
            self.model(real)
        for folder in (self.folder / f"{own}-ipc{ipc}" for own in table["sets"] for ipc in table["ipc"]):
            if not all((self.kept / folder.name / record).is_file() for record in self.records(folder)):
                self.keep(folder)  # of a run that was stopped before it came to it

    def rounds(self, table: dict) -> Iterator[tuple[int, Protocol]]:
        """Return IPC and protocol of each round of a table."""
        for ipc in self.args.ipc or table["ipc"]:
            if ipc in table["ipc"]:
                yield from ((ipc, protocol(rules)) for rules in table["protocols"])


class Judge:
    """The students of one table."""

    def __init__(self, run: Run, test: HeldOut, teacher: tuple, table: dict):
        self.run, self.test, self.teacher, self.table = run, test, teacher, table

    def made(self, record: EvaluationRecord, rules: Protocol) -> bool:
        """Whether a record is of such students: not of another version, teacher or number of them, as by hand."""
        teacher = self.teacher[1].sha256 if record.teacher else None
        wanted = rules.name, rules.version, self.table["student"], list(SEEDS), teacher
        own = record.protocol, record.protocol_version, record.student, record.seeds, record.teacher_sha256
        return own == wanted and RANDOM in record.baselines

    def subject(self, folder: Path) -> Subject:
        """Return a set as its students see it."""
        made = load_distilled(str(folder))
        manifest = made.manifest
        own = TrainingSet(*map(torch.from_numpy, made.decoded()))
        return Subject(
            own, self.test, manifest.content_sha256, *self.teacher, label_temperature(manifest), student_rate(manifest),
            tiles=manifest.tiles, folder=folder, name=folder.name,
        )  # fmt: skip

    def students(self, subject: Subject, rules: Protocol, name: str, trial: Trial) -> EvaluationRecord:
        """Train a student of each seed."""
        student = self.table["student"]
        how = {"compiled": self.table.get("compile", False), "stage": f"{name}, {rules.name}"}
        made_from = {"set": subject.content_sha256, "teacher": subject.teacher_record.sha256}
        return measure(self.run, subject, rules, student, SEEDS, {OWN: trial}, made_from=made_from, **how)

    def drawn(self, folder: Path, rules: Protocol, ipc: int) -> Score:
        """Return what random real images reach, drawn anew for every seed."""
        subject = self.subject(folder)
        draw = subject.random_real(self.run, subject.own.images.shape[-1], soft=rules.labels == "soft")
        trial = Trial(draw, settings_of(subject, rules, self.table["student"]))
        return self.students(subject, rules, f"drawn-ipc{ipc}", trial).score

    def record(self, folder: Path, rules: Protocol, random: Score) -> EvaluationRecord:
        """Score a set, beside random real images."""
        subject = self.subject(folder)
        trial = Trial(lambda seed: subject.own, settings_of(subject, rules, self.table["student"]))
        record = self.students(subject, rules, folder.name, trial)
        update = {"baselines": {RANDOM: random}, "bytes": data_bytes(folder, trial.settings.labels)}
        return record.model_copy(update=update)


def main() -> None:
    """Read the command line, and score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--folder", type=Path, required=True, help="holds models, sets and students, a folder for each plan")
    parser.add_argument("--kept", type=Path, default=Path("cards/results"), help="what is scored, without its images")
    parser.add_argument("--source", help="where the source lies, if not where the plan says")
    parser.add_argument("--normalization", help="of the source; see the recipes")
    parser.add_argument("--tables", nargs="+", help="names in the plan; default: all")
    parser.add_argument("--ipc", type=int, nargs="+", help="default: all of a table")
    parser.add_argument("--sets", nargs="+", help="default: all of a table")
    args = parser.parse_args()
    study = Study(args)
    for kind, named in (("tables", args.tables), ("sets", args.sets)):
        if unknown := sorted({*(named or ())} - study.plan[kind].keys()):
            parser.error(f"{args.plan} has no {kind} {', '.join(unknown)}; it has {', '.join(study.plan[kind])}")
    for name in args.tables or study.plan["tables"]:
        study.score(name)


if __name__ == "__main__":
    main()
