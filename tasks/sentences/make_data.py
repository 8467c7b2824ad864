"""Makes the task's data: requests for one sentence that obeys rules, of five levels. Always the same.

    python make_data.py --out DIR     writes labelled.csv (800 rows), test.csv and answers.csv (400 rows each)
        [--labelled N] [--test N]     other numbers of rows

`answer` holds the rules as JSON, from which the request was written: there is no gold sentence.
"""

import argparse
import csv
import json
import random
from pathlib import Path

LEVELS = 5
TOPICS = """
    apple baker bakery balloon basket bicycle boat book bridge butterfly camera candle castle cat child city clock cloud
    coffee cook desert doctor dog dragon engine farmer festival fire fish flower forest friend game garden guitar hat
    hill horse house island journey kitchen lake lamp letter library lion market mirror moon mountain museum musician
    neighbor ocean office owl painter park phone picture pilot pirate planet poem rabbit rain river road robot sailor
    school ship shoe singer snow soldier song star storm street student sun teacher tent tiger tower train tree village
    violin wind window winter wolf
"""
WORDS = """
    always away before blue bright broken careful clean cold dark deep early empty evening every fast finally golden
    good green happy heavy home large late light little loud morning narrow never new often old open people quiet
    quickly red sad sharp short silver simple slowly small smooth soft sometimes strange strong sudden sweet tall tired
    together warm water white wide wild wise wonderful yellow young
"""
FIRST = "After Every He In It My On Our She Some The They This Today We When Yesterday You"
LAST = """
    again alone air bed day dream everyone evening fun home hope life morning music night peace people place sky spring
    story summer sunset table time today together town water world years
"""
LETTERS = "bkpvmgz"  # to avoid
MANY = ("include", "first", "last", "avoid", "mark")
# For each level: the kinds of rules besides the topic, how many of them, and the rule for the number of words.
KINDS: dict[int, tuple[tuple[str, ...], int, tuple[str, int, int] | None]] = {
    1: ((), 0, ("at_most", 14, 20)),
    2: (("include", "first", "mark"), 1, ("at_most", 12, 18)),
    3: (MANY, 2, None),
    4: ((), 0, ("exactly", 5, 12)),
    5: (MANY, 2, ("at_most", 8, 12)),
}


def rules_of(level: int, rng: random.Random) -> dict[str, str | int]:
    """The rules of one question, which can be obeyed together."""
    while True:
        kinds, count, length = KINDS[level]
        rules: dict[str, str | int] = {"topic": rng.choice(TOPICS.split())}
        values = {
            "include": rng.choice(WORDS.split()),
            "first": rng.choice(FIRST.split()),
            "last": rng.choice(LAST.split()),
            "mark": rng.choice("!?"),
            "avoid": rng.choice(LETTERS),
        }
        rules |= {kind: values[kind] for kind in rng.sample(kinds, count)}
        if length:
            rules[length[0]] = rng.randint(*length[1:])
        words = [str(rules[kind]).lower() for kind in ("topic", "include", "first", "last") if kind in rules]
        if len(set(words)) == len(words) and not any(str(rules.get("avoid", "#")) in word for word in words):
            return rules


def request(rules: dict[str, str | int]) -> str:
    """What is asked for, in words."""
    parts = {
        "include": 'contain the word "{}"',
        "at_most": "have at most {} words",
        "exactly": "have exactly {} words",
        "first": 'begin with the word "{}"',
        "last": 'end with the word "{}"',
        "mark": 'end with "{}"',
        "avoid": 'not use the letter "{}"',
    }
    wanted = [form.format(rules[kind]) for kind, form in parts.items() if kind in rules]
    text = wanted[0] if len(wanted) == 1 else f"{', '.join(wanted[:-1])} and {wanted[-1]}"
    article = "an" if str(rules["topic"])[0] in "aeiou" else "a"
    return f"Write one sentence about {article} {rules['topic']}. It must {text}."


def write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labelled", type=int, default=800)
    parser.add_argument("--test", type=int, default=400)
    args = parser.parse_args()
    out, labelled = args.out, args.labelled
    rng = random.Random(20263)  # the data is part of the task: its seed is no option
    questions: dict[str, tuple[int, str]] = {}  # request -> level, rules
    while len(questions) < labelled + args.test:
        level = 1 + len(questions) % LEVELS
        rules = rules_of(level, rng)
        questions.setdefault(request(rules), (level, json.dumps(rules)))
    rows = [[level, text, rules] for text, (level, rules) in questions.items()]
    test = list(enumerate(rows[labelled:]))
    header = ["id", "level", "request", "answer"]
    write(out / "labelled.csv", header, [[i, *row] for i, row in enumerate(rows[:labelled])])
    write(out / "test.csv", header[:3], [[i, level, text] for i, (level, text, _) in test])
    write(out / "answers.csv", ["id", "answer"], [[i, rules] for i, (_, _, rules) in test])


if __name__ == "__main__":
    main()
