"""Completion scripts of shells, made of argument parsers by shtab. Knows no command."""

import argparse
from collections.abc import Iterator

from app import extras

SHELLS = ("bash", "zsh", "fish")

# Words for values that are paths of folders, and of files. Any other word for a value is completed by nothing.
FOLDERS = frozenset({"BUNDLE", "DIR"})
FILES = frozenset({"CHECKPOINT", "DATA", "FILE", "IMAGE", "OUTPUT", "SOURCE"})

SUMMARY = "print a completion script for a shell"
DESCRIPTION = """\
Print a script that completes the commands, options and values of {program} in a shell.

Write it to the folder of the shell, which you may have to create, and start a new shell:

  bash  {program} completion bash >~/.local/share/bash-completion/completions/{program}
  zsh   {program} completion zsh >~/.zfunc/_{program}
        with these lines in ~/.zshrc: fpath+=~/.zfunc; autoload -Uz compinit; compinit
  fish  {program} completion fish >~/.config/fish/completions/{program}.fish

bash needs the package bash-completion. The command needs shtab: pip install 'swin-serve[cli]'. The script does not.
"""
END = """\
exit codes:
  0  the script is printed
  2  shtab is not installed
"""


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument of the command `completion`."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the script that completes the arguments of a parser.

    Changes the parser: help texts become short, and values get hints.

    Raises:
        StartError: shtab is not installed.
    """
    with extras.required(f"{parser.prog} completion", "shtab", extra="cli"):
        import shtab  # noqa: PLC0415 (an extra)
    for action in _actions(parser):
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (argparse has no public name for it)
            for summary in action._get_subactions():  # noqa: SLF001 (likewise)
                action.choices[summary.dest].description = summary.help
        word = action.metavar if isinstance(action.metavar, str) else ""
        if "|" in word:
            action.choices = word.split("|")
        elif word in FOLDERS | FILES:
            action.complete = shtab.DIRECTORY if word in FOLDERS else shtab.FILE  # type: ignore[attr-defined] # read by shtab
        if action.help:
            action.help = _first_sentence(action.help)
    text: str = shtab.complete(parser, shell)
    return f"{text.rstrip()}\n"


def _first_sentence(text: str) -> str:
    """Return the part of a help text that fits beside a suggestion."""
    return text.partition(". ")[0].partition(" (default: ")[0].removesuffix(".")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the actions of a parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001 (likewise)
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 (likewise)
            for command in action.choices.values():
                yield from _actions(command)
