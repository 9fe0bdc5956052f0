"""`swin-export` as a whole: every command, at the command line."""

from pathlib import Path

import pytest

from model_export.cli.main import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_manual_page(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` describes the command and lists its exit codes."""
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])

    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert COMMANDS[command].description in text
    assert "exit codes:" in text


def test_the_list_of_commands_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    """`swin-export --help` lists each command with its summary."""
    with pytest.raises(SystemExit):
        main(["--help"])

    text = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert name in text
        assert command.summary in text


def test_a_report_without_a_place_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing folder for the report is refused before the work, with exit code 2."""
    code = main(["evaluate", "no-bundle", "no-data", "--output", str(tmp_path / "missing" / "report.json")])

    assert code == 2
    assert f"there is no folder {tmp_path / 'missing'}" in capsys.readouterr().err
