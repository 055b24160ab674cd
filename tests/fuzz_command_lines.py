"""Command lines: the options of each command, taken from its parser, with values of every sort.

A command runs until it imports TensorFlow; `fuzz_workers` raises `ReachedTensorFlow` there.
"""

import argparse
import contextlib
import functools
import importlib
import io
from pathlib import Path

from fuzz_kinds import Kind, Wrong, check_message

PACKAGE = Path(importlib.util.find_spec("vim_tf").origin).parent
COUNTS = (
    "1",
    "0",
    "-1",
    "16",
    "1.5",
    "1e9",
    "nan",
    "inf",
    "x",
    "",
    "99999999999999999999",
    "9" * 5000,
)
PATHS = (
    *("{world}/vim", "{world}/vit_vqgan", "{world}/images", "{world}/vim.yaml", "{world}/net.pb"),
    *(
        "{world}/net.keras",
        "{world}/nowhere",
        "new.png",
        "new.json",
        "new.PNG",
        "a/new.png",
        "",
        ".",
    ),
    *(
        "{world}/vim/lock/x.png",
        "exp[1]",
        "\x1b[31m.png",
        "é\n.json",
        "~",
        "a" * 300,
        "-x",
    ),
)
WORDS = (
    *(
        "all",
        "0,1",
        "red",
        "red,blue",
        ",",
        "fid,kid",
        "codes,attention",
        "tfjs",
        "saved_model,tflite",
    ),
    *(
        "256x192",
        "0x0",
        "adm",
        "data.path=x",
        "data.path={world}/images",
        "model.heads=3",
        "seed=1",
    ),
    *("a=b=c", "\udce9", "\x1b]0;x\x07", "猫", "--", "data.image_size=[1"),
)


class ReachedTensorFlow(BaseException):
    """A command has accepted its arguments and starts to work."""


class _Parser(Exception):
    """Carries a parser out of a command."""


def commands():
    """Returns {name: module} of the commands of the package that train, open or export runs."""
    found = sorted(path.stem for path in PACKAGE.glob("*.py") if "__main__" in path.read_text())
    return {name: f"vim_tf.{name}" for name in found} | {"export": "vim_tf.export.__main__"}


@functools.cache
def parser_of(name):
    """Returns the `ArgumentParser` of a command, without running it."""
    module = importlib.import_module(commands()[name])
    parse = argparse.ArgumentParser.parse_args

    def caught(self, *arguments):
        raise _Parser(self)

    argparse.ArgumentParser.parse_args = caught
    try:
        module.main([])
    except _Parser as found:
        return found.args[0]
    finally:
        argparse.ArgumentParser.parse_args = parse
    raise AssertionError(f"{name} parses no arguments")


def drawer(name):
    """The function that draws arguments of a command."""

    def draw(world, rng):
        parser, words = parser_of(name), []
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) and rng.randrange(10):
                kind = rng.choice(sorted(action.choices))
                parser, words = action.choices[kind], [kind]
        actions = [action for action in parser._actions if action.option_strings]
        required = [action for action in actions if action.required and rng.randrange(10)]
        extra = [rng.choice(actions) for _ in range(rng.randrange(4))]
        for action in [*required, *extra]:
            words.append(rng.choice(action.option_strings))
            words += _values(action, rng)
        if rng.randrange(10) == 9:
            words.insert(rng.randrange(len(words) + 1), rng.choice([*WORDS, *PATHS]))
        return words

    return draw


def _values(action, rng):
    if action.nargs == 0:
        return []
    if action.choices and rng.randrange(8):
        return [str(rng.choice(sorted(action.choices)))]
    if action.dest == "config" and rng.randrange(8):
        return [
            rng.choice(["{world}/vim.yaml", "{world}/vit_vqgan.yaml", "{world}/vim/config.yaml"])
        ]
    if action.dest == "out" and rng.randrange(4):
        return [rng.choice(["new.png", "new.json", "new"])]
    if action.dest == "run" and rng.randrange(4):
        return [rng.choice(["{world}/vim", "{world}/vit_vqgan"])]
    values = COUNTS if action.type in (int, float) else (*WORDS, *PATHS, *COUNTS)
    return [rng.choice(values) for _ in range(2 if action.nargs == "+" and rng.randrange(2) else 1)]


def runner(name):
    """The function that runs a command up to TensorFlow, and checks what it prints."""

    def run(live, words):
        from vim_tf import command_line
        from vim_tf.config import loader
        from vim_tf.errors import UserError

        loader.config_help = _remember(loader.config_help)
        words = [word.replace("{world}", str(live)) for word in words]
        main = importlib.import_module(commands()[name]).main
        errors, printed = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(printed):
                command_line.run(lambda: main(words))
        except ReachedTensorFlow:
            return
        except SystemExit as end:
            if end.code in (0, None):
                return
            if end.code != 2:
                raise Wrong(f"exit code {end.code} of {name}", errors.getvalue()[-500:]) from None
            line = errors.getvalue().removesuffix("\n").rpartition("error: ")[2]
            check_message(line, f"command {name}")
            raise UserError(line) from None

    return run


@functools.cache
def _remember(function):
    """A function without arguments that is called once: the help of all keys takes long."""
    return function if hasattr(function, "cache_info") else functools.cache(function)


def _kind(name):
    return Kind(f"command {name}", drawer(name), lambda live, case: None, runner(name))


COMMANDS = [_kind(name) for name in commands()]
