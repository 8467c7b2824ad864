"""Small target agents for tests: complete programs, as a proposer would write them."""

HEAD = """
import argparse, collections, csv, os, pathlib, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir"), parser.add_argument("--working_dir")
args = parser.parse_args()
data, work = pathlib.Path(args.dataset_dir), pathlib.Path(args.working_dir)
train = list(csv.DictReader((data / "train.csv").open(encoding="utf-8")))
asked = list(csv.DictReader((data / "questions.csv").open(encoding="utf-8")))
def answer(rows):
    with (work / "submission.csv").open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("id", "label"), *rows])
commonest = collections.Counter(row["label"] for row in train).most_common(1)[0][0]
"""

# Always the commonest label.
MAJORITY = HEAD + "answer([(q['id'], commonest) for q in asked])\n"

# Each word votes for the labels it was seen with: clearly better than MAJORITY on the smoke task.
WORDS = (
    HEAD
    + """
votes = collections.defaultdict(collections.Counter)
for row in train:
    words = row["text"].lower().split()
    for word in words + [a + "_" + b for a, b in zip(words, words[1:])]:
        votes[word][row["label"]] += 1
share = collections.Counter(row["label"] for row in train)
def guess(text):
    total = collections.Counter()
    words = text.lower().split()
    for word in words + [a + "_" + b for a, b in zip(words, words[1:])]:
        seen = votes.get(word, {})
        n = sum(seen.values())
        for label in seen:
            total[label] += (seen[label] / n - share[label] / len(train)) * min(1, n / 5)
    return max(share, key=lambda label: (total[label], label))
answer([(q["id"], guess(q["text"])) for q in asked])
"""
)

# One wrong label for everything: worse than MAJORITY.
RAREST = HEAD + (
    "rarest = collections.Counter(row['label'] for row in train).most_common()[-1][0]\n"
    "answer([(q['id'], rarest) for q in asked])\n"
)

CRASH = "raise SystemExit('nothing works here')\n"
SILENT = "print('I did nothing')\n"
SYNTAX = "def f(:\n"
LOOP = "while True: pass\n"
