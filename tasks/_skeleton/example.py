"""Makes the example of a new task: short messages to a shop, and which desk should answer them.

    python example.py --out DIR     writes labelled.csv (400 rows: id, channel, text, label)

One sentence says what the message is about, the others are small talk. One label in twenty is drawn again: no program
reaches 1.0.
"""

import argparse
import csv
import random
from pathlib import Path

ROWS, NOISE = 400, 0.05
ABOUT = {
    "billing": ["I was charged {n} euros twice", "the invoice of {day} shows a wrong sum", "please refund the {thing}",
                "my card was declined for the {thing}", "the discount of {n} percent is missing on my bill"],
    "delivery": ["the parcel with the {thing} has not arrived", "the courier left the {thing} at a neighbour on {day}",
                 "tracking has shown nothing for {n} days", "the box with my {thing} came open and wet",
                 "can you deliver the {thing} on {day} instead"],
    "technical": ["the {thing} does not switch on", "after {n} minutes the {thing} gets hot and stops",
                  "the app loses my {thing} since the update of {day}", "an error with code {n} is on the display",
                  "how do I reset the {thing} to factory settings"],
}  # fmt: skip
SMALL_TALK = ["I ordered it on {day} as a present", "my neighbour has the same {thing} and likes it",
              "this is the message number {n} that I write", "I am at home on {day} after {n}",
              "thank you for your time",
              "last year everything went well", "I bought a {thing} from you before"]  # fmt: skip
THINGS = [
    "kettle",
    "lamp",
    "radio",
    "drill",
    "toaster",
    "camera",
    "scale",
    "heater",
    "speaker",
    "shaver",
    "mixer",
    "fan",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]


def sentence(rng: random.Random, choices: list[str]) -> str:
    """Fill one of the templates."""
    return rng.choice(choices).format(n=rng.randint(3, 60), day=rng.choice(DAYS), thing=rng.choice(THINGS))


def message(rng: random.Random) -> tuple[str, str, str]:
    """Return (channel, text, desk)."""
    desk = rng.choices(sorted(ABOUT), weights=(4, 5, 3))[0]
    sentences = [sentence(rng, ABOUT[desk]), *(sentence(rng, SMALL_TALK) for _ in range(rng.randint(2, 4)))]
    rng.shuffle(sentences)
    label = rng.choice(sorted(ABOUT)) if rng.random() < NOISE else desk
    return (
        rng.choice(["mail", "phone", "chat"]),
        ". ".join(part[0].upper() + part[1:] for part in sentences) + ".",
        label,
    )


def main() -> None:
    """Write labelled.csv."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    rng = random.Random(7)
    with (out / "labelled.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", "channel", "text", "label"])
        writer.writerows([n, *message(rng)] for n in range(ROWS))


if __name__ == "__main__":
    main()
