"""The peers' process: makes and runs `cases`, by commands in JSON lines on standard input.

    {"make": "vit", "settings": {...}}   ->  {"case": 0, "about": {...}}
    {"run": 0}                           ->  {"done": 0}
    {"forget": 0}                        ->  {"done": 0}

Standard output has only the answers. All other output goes to standard error.
"""

import json
import os
import sys

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import cases  # noqa: E402, its imports print text


def answer(**values):
    """Writes one line."""
    answers.write(json.dumps(values) + "\n")
    answers.flush()


made = {}
for line in sys.stdin:
    asked = json.loads(line)
    if "make" in asked:
        number = len(made)
        made[number], about = getattr(cases, asked["make"])(**asked["settings"])
        answer(case=number, about=about)
    elif "run" in asked:
        made[asked["run"]]()
        answer(done=asked["run"])
    else:
        made[asked["forget"]] = None
        answer(done=asked["forget"])
