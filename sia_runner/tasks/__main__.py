"""``python -m sia_runner.tasks`` starts the command in sia_runner/own_task/command.py."""

import sys

from sia_runner.own_task.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
