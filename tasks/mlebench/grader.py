"""The program that runs mlebench's own grader, in a process of its own, as it reads a harness's files.

python -I -c … PACKAGES COMPETITION DATA_DIR SUBMISSION prints {"score": float | null} as its last line
"""

import json
import sys
from pathlib import Path


def main() -> None:
    """Grade one submission and print its score."""
    packages, competition, data_dir, submission = sys.argv[1:]
    sys.path.insert(0, packages)
    from mlebench.registry import registry  # type: ignore[import-not-found]
    from mlebench.utils import load_answers, read_csv  # type: ignore[import-not-found]

    definition = registry.set_data_dir(Path(data_dir)).get_competition(competition)
    # None: it takes the submission for invalid
    score = definition.grader(read_csv(submission), load_answers(definition.answers))
    print(json.dumps({"score": None if score is None else float(score)}))


if __name__ == "__main__":
    main()
