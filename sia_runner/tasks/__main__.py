"""``python -m sia_runner.tasks``, see sia_runner/own_task/command.py: a command stands above the rooms."""

import sys

from sia_runner.own_task.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
