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

# A function that asks the model, with the standard library: the clients take a second to import.
ASK = """
import json, urllib.request
def ask(text, question):
    messages = [{"role": "user", "content": text}]
    body = {"model": os.environ["SIA_MODEL"], "messages": messages, "user": question}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
        return json.load(reply)["choices"][0]["message"]["content"]
"""

# Always the commonest label.
MAJORITY = HEAD + "answer([(q['id'], commonest) for q in asked])\n"

# Naive Bayes over words and pairs of words: clearly better than MAJORITY on the smoke task.
WORDS = (
    HEAD
    + """
import math
def parts(text):
    words = text.lower().split()
    return words + [a + "_" + b for a, b in zip(words, words[1:])]
seen, total = collections.defaultdict(collections.Counter), collections.Counter()
for row in train:
    seen[row["label"]].update(parts(row["text"]))
    total[row["label"]] += 1
def guess(text):
    def log_odds(label):
        size = sum(seen[label].values())
        return math.log(total[label]) + sum(math.log((seen[label][p] + 0.1) / (size + 100)) for p in parts(text))
    return max(sorted(total), key=log_odds)
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
