"""Tasks with one planted fault each, written as a user's folder that `tasks check` reads, and what has to be found."""

import base64
import csv
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

WORDS = ["amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "harbor", "inlet", "jetty", "knoll", "lagoon"]
WORDS += ["meadow", "north", "ocean", "prairie", "quarry", "ridge", "stream", "tundra", "upland", "valley", "willow"]
WORDS += ["yonder", "zenith", "acorn", "birch", "cliff", "dune", "estuary", "fern", "glacier", "heath", "island"]
LABELS = ("land", "water", "wood")
HEAD = """
import csv
from sia_runner.records import Outcome, OutcomeKind
RIGHT, WRONG, INVALID = OutcomeKind.CORRECT, OutcomeKind.WRONG, OutcomeKind.INVALID_FORMAT

def rows(submission):
    try:
        with (submission / "submission.csv").open(encoding="utf-8", errors="replace", newline="") as stream:
            for row in csv.DictReader(line.replace("\\0", "") for line in stream):
                yield str(row.get("id")), str(row.get("label") or "")
    except (OSError, csv.Error):
        return
"""
GOOD = (
    HEAD
    + """
def verify(submission, answers):
    found, spoiled = {}, set()
    for unit, given in rows(submission):
        if unit in found:
            spoiled.add(unit)
        found[unit] = given
    for unit, gold in answers.items():
        given = found.get(unit, "").strip()
        if given and unit not in spoiled:
            yield Outcome(unit, RIGHT if given == gold else WRONG, float(given == gold), given[:300])
"""
)


@dataclass
class Made:
    """A task in the making: what stands in its files."""

    columns: list[str]
    rows: list[list[str]]  # id, columns, label
    config: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)

    def column(self, name: str, of: Callable[[int, str], str]) -> None:
        """A further column: `of` row number and label."""
        self.columns.append(name)
        for n, row in enumerate(self.rows):
            row.insert(-1, of(n, row[-1]))

    def verifier(self, text: str) -> None:
        self.config["metric"]["verifier"] = "python"
        self.files["verifier.py"] = text


def sound(n: int = 150) -> Made:
    """Three labels, told by a word of the text, with some noise. Nothing is wrong with it."""
    rng = random.Random(5)
    rows = []
    for number in range(n):
        label = LABELS[number * 7 % 3]
        told = {"land": "field", "water": "river", "wood": "forest"}[
            label if rng.random() < 0.9 else rng.choice(LABELS)
        ]
        words = [told, *rng.choices(WORDS, k=12)]
        rng.shuffle(words)
        rows.append([str(number), " ".join(words), label])
    config = {
        "name": "broken",
        "_target_": "sia_runner.tasks.table.TableTask",
        "data": {"labelled": "labelled.csv", "licence": "CC0 (made by a test)"},
        "metric": {"name": "accuracy", "verifier": "exact_match"},
        "splits": {"dev": 0.15, "val": 0.25, "test": 0.25},
        "limits": {"run": 30, "gate": 10, "verify": 20},
    }
    reference = Path(__file__).parents[2] / "tasks" / "_skeleton" / "reference" / "target_agent.py"
    text = "# Land, water or wood?\n\nEach question is a row of words. Answer `land`, `water` or `wood`: accuracy.\n"
    return Made(["text"], rows, config, {"task.md": text, "reference/target_agent.py": reference.read_text()})


def write(made: Made, folder: Path) -> Path:
    config = made.config | {"dir": str(folder)}
    table = [["id", *made.columns, "label"], *made.rows]
    files = {"labelled.csv": _csv(table), "conf/task/broken.yaml": "# A task.\n" + yaml.safe_dump(config)} | made.files
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _csv(table: list[list[str]]) -> str:
    import io

    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(table)
    return stream.getvalue()


def answer_under_another_name(made: Made) -> None:
    made.column("desk", lambda n, label: {"land": "d3", "water": "d1", "wood": "d2"}[label])


def answer_in_base64(made: Made) -> None:
    made.column("checksum", lambda n, label: base64.b64encode(label.encode()).decode())


def rows_sorted_by_answer(made: Made) -> None:
    made.rows.sort(key=lambda row: row[-1])
    made.column("line", lambda n, label: str(n))


def answer_in_the_text(made: Made) -> None:
    for row in made.rows:
        row[1] += f" (filed under: {row[-1]})"


def ids_that_tell(made: Made) -> None:
    made.config["columns"] = {"grouped_ids": True}
    for n, row in enumerate(made.rows):
        row[0] = f"{n:04d}_{LABELS.index(row[-1])}"


def labels_as_an_extra_file(made: Made) -> None:
    made.config["data"]["extra"] = {"notes.csv": "labelled.csv"}


def answers_in_a_json_file(made: Made) -> None:
    made.config["data"]["extra"] = {"index.json": "index.json"}
    made.files["index.json"] = json.dumps({row[1]: {"kind": row[-1], "words": 13} for row in made.rows})


def sample_that_is_gold(made: Made) -> None:
    """Of the test questions, in a file of the task's own; its ids are those of the data."""
    made.config["data"]["extra"] = {"sample_submission.csv": "sample.csv"}
    made.files["sample.csv"] = _csv([["id", "label"], *([row[0], row[-1]] for row in made.rows)])


def answers_beside_the_programs(made: Made) -> None:
    made.files["reference/cache.txt"] = "".join(f"{row[0]}: {row[-1]}\n" for row in made.rows)


def examples_from_the_questions(made: Made) -> None:
    made.files["task.md"] += "".join(f"\n- {row[1]} is {row[-1]}" for row in made.rows[:30])


def near_duplicates(made: Made) -> None:
    """The second half says the same as the first, one word aside."""
    half = len(made.rows) // 2
    for n in range(half):
        made.rows[half + n][1:] = [f"{made.rows[n][1]} {made.rows[n][1]} fin", made.rows[n][-1]]
        made.rows[n][1] = f"{made.rows[n][1]} {made.rows[n][1]}"


def groups_cut_apart(made: Made) -> None:
    """Three rows a patient, with one label."""
    for n, row in enumerate(made.rows):
        row[0], row[-1] = f"p{n // 3:03d}_{n % 3}", LABELS[n // 3 % 3]


def hardly_any_val(made: Made) -> None:
    made.config["splits"] = {"dev": 0.3, "val": 0.07, "test": 0.3}


def one_answer_nearly_always(made: Made) -> None:
    for n, row in enumerate(made.rows):
        row[-1] = "land" if n % 20 else "wood"


def no_licence(made: Made) -> None:
    del made.config["data"]["licence"]


def reference_crashes(made: Made) -> None:
    made.files["reference/target_agent.py"] = "raise SystemExit('no module named numpie')\n"


def reference_hangs(made: Made) -> None:
    made.config["limits"]["gate"] = 1
    made.files["reference/target_agent.py"] = "while True: pass\n"


def reference_knows_it_all(made: Made) -> None:
    """It was written with the answers at hand."""
    known = json.dumps({row[1]: row[-1] for row in made.rows})
    text = made.files["reference/target_agent.py"]
    made.files["reference/target_agent.py"] = text.replace(
        "rows = [(row[ID], answer)", f"known = {known}\n    rows = [(row[ID], known[row['text']])"
    )


def divides_by_what_was_answered(made: Made) -> None:
    made.verifier(
        GOOD + "\ndef aggregate(outcomes):\n    given = [o.value for o in outcomes if o.kind in (RIGHT, WRONG)]\n"
        "    return sum(given) / len(given) if given else 0.0\n"
    )


def aggregates_to_nothing(made: Made) -> None:
    made.verifier(GOOD + "\ndef aggregate(outcomes):\n    return None\n")


def any_of_several_answers(made: Made) -> None:
    made.verifier(
        HEAD + "\ndef verify(submission, answers):\n    given = set(rows(submission))\n"
        "    return [Outcome(unit, RIGHT, float((unit, gold) in given)) for unit, gold in answers.items()]\n"
    )


def counts_rows(made: Made) -> None:
    """As some evaluators do: right rows divided by questions."""
    made.verifier(
        HEAD + "\ndef verify(submission, answers):\n    right = dict.fromkeys(answers, 0.0)\n"
        "    for unit, given in rows(submission):\n        if answers.get(unit) == given:\n"
        "            right[unit] += 1\n"
        "    return [Outcome(u, RIGHT, right[u]) for u in answers]\n"
    )


def judges_by_place(made: Made) -> None:
    """The n-th row answers the n-th question, whatever its id says."""
    made.verifier(
        HEAD + "\ndef verify(submission, answers):\n    given = [text for _, text in rows(submission)]\n"
        "    right = [a == b for a, b in zip(given, [*answers.values()] * 2)]\n"
        "    return [Outcome(u, RIGHT, float(any(right[n::len(answers)]))) for n, u in enumerate(answers)]\n"
    )


def empty_is_right(made: Made) -> None:
    made.verifier(GOOD.replace("if given and unit", "if unit").replace("given == gold", "gold.startswith(given)"))


def fails_on_what_is_no_label(made: Made) -> None:
    made.verifier(
        GOOD.replace(
            "float(given == gold)",
            "float(['land', 'water', 'wood'].index(given) == ['land', 'water', 'wood'].index(gold))",
        )
    )


def fails_on_other_encodings(made: Made) -> None:
    made.verifier(GOOD.replace(', errors="replace"', ""))


def prints_gold(made: Made) -> None:
    made.verifier(GOOD.replace("    found, spoiled", "    print(answers)\n    found, spoiled"))


def shows_gold(made: Made) -> None:
    made.verifier(GOOD.replace("given[:300])", "f'{given[:100]} (should be {gold})')"))


def throws_dice(made: Made) -> None:
    made.verifier("import random\n" + GOOD.replace("float(given == gold)", "float(given == gold) * random.random()"))


def points_up_to_ten(made: Made) -> None:
    made.verifier(GOOD.replace("float(given == gold)", "10.0 * (given == gold)"))


def outcomes_for_other_ids(made: Made) -> None:
    made.verifier(GOOD.replace("yield Outcome(unit,", "yield Outcome('question ' + unit,"))


def believes_the_harness(made: Made) -> None:
    made.verifier(
        "import json\n" + GOOD.replace("def verify(submission, answers):", "def by_hand(submission, answers):") +
        "\ndef verify(submission, answers):\n    told = submission / 'agent_execution.json'\n"
        "    if told.is_file():\n        score = json.loads(told.read_text())['score']\n"
        "        return [Outcome(unit, RIGHT, score) for unit in answers]\n"
        "    return list(by_hand(submission, answers))\n"
    )  # fmt: skip


def loads_pickles(made: Made) -> None:
    made.verifier("import pickle\n" + GOOD + "\ndef unused(path):\n    return pickle.load(path.open('rb'))\n")


def takes_its_time(made: Made) -> None:
    made.config["limits"]["verify"] = 4
    made.verifier("import time\n" + GOOD.replace("    found, spoiled", "    time.sleep(2.1)\n    found, spoiled"))


def key_in_other_words(made: Made) -> None:
    """The answer column holds what no harness would write."""
    made.verifier(GOOD.replace("given == gold", "given == gold.upper()"))


# fault -> (code of the finding that must be there, which look finds it)
FAULTS: dict[Callable[[Made], None], tuple[str, str]] = {
    answer_under_another_name: ("answer-in-column", "columns"),
    answer_in_base64: ("answer-in-column", "columns"),
    rows_sorted_by_answer: ("answer-in-column", "columns"),
    answer_in_the_text: ("answer-in-column", "columns"),
    ids_that_tell: ("answer-in-id", "columns"),
    labels_as_an_extra_file: ("gold-in-view", "view"),
    answers_in_a_json_file: ("gold-in-view", "view"),
    sample_that_is_gold: ("gold-in-view", "view"),
    answers_beside_the_programs: ("gold-in-program", "programs"),
    examples_from_the_questions: ("questions-in-task-md", "description"),
    near_duplicates: ("near-duplicates", "splits"),
    groups_cut_apart: ("groups-cut", "splits"),
    hardly_any_val: ("too-few", "few"),
    one_answer_nearly_always: ("constant", "games"),
    no_licence: ("no-licence", "declared"),
    reference_crashes: ("reference-fails", "run"),
    reference_hangs: ("reference-fails", "run"),
    reference_knows_it_all: ("nothing-to-improve", "run"),
    divides_by_what_was_answered: ("denominator", "games"),
    any_of_several_answers: ("duplicates", "games"),
    counts_rows: ("duplicates", "games"),
    judges_by_place: ("unknown-ids", "games"),
    empty_is_right: ("empty-earns", "games"),
    fails_on_what_is_no_label: ("judge-fails", "hostile"),
    fails_on_other_encodings: ("judge-fails", "hostile"),
    prints_gold: ("prints-gold", "contract"),
    shows_gold: ("shows-gold", "contract"),
    throws_dice: ("not-deterministic", "contract"),
    points_up_to_ten: ("out-of-range", "contract"),
    outcomes_for_other_ids: ("judge-fails", "judge"),
    aggregates_to_nothing: ("judge-fails", "judge"),
    believes_the_harness: ("trusts-harness", "games"),
    loads_pickles: ("runs-submissions", "code"),
    takes_its_time: ("slow-judge", "time"),
    key_in_other_words: ("gold-is-wrong", "judge"),
}
