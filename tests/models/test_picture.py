import json
import warnings
from pathlib import Path

import pytest
from tiny_runs import TEXT, TINY, finish, start

from tinygrad_char.models import picture
from tinygrad_char.models.plot import plot_losses
from tinygrad_char.models.run_folder import RunFolder

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = [
    "$x_{",
    "$\\frac{$",
    "a_b^c",
    "\u6587\u7ae0",
    "caf\udce9",
    "\x1b[31mred",
    "two\nlines",
    "\u202eright",
    "[red]x[/red]",
    "\U0001f600",
    "x" * 240,
    "\\",
    "%s {0}",
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(
            json.dumps({"step": step, "loss": 2.0, "train_loss": 2.0, "validation_loss": "nan"})
            + "\n"
            for step in range(3)
        )
    )
    return RunFolder(tmp_path)


def refuse(message):
    raise AssertionError(f"nothing should be said here: {message}")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_text_is_a_title(name, folder, capfd):
    plot_losses(folder, f"gpt on {name}", refuse)
    assert folder.loss_picture.read_bytes().startswith(PNG)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$x_{", "$x_{"),
        ("caf\u00e9", "caf\u00e9"),
        ("caf\udce9", "caf\\xe9"),
        ("\ud800", "\\ud800"),
        ("\u6587", "\\u6587"),
        ("\x1b\u202e", "\\x1b\\u202e"),
        ("x" * 200, "x" * 77 + "..."),
    ],
)
def test_a_title_shows_what_a_name_is(name, shown):
    assert picture.title(name) == {"label": shown, "parse_math": False}


@pytest.mark.parametrize("name", ["$x_{", "\u6587\u7ae0", "caf\udce9", "a\x1b[2Jb"])
def test_a_run_on_a_text_of_any_name_ends_well(name, tmp_path):
    try:
        (tmp_path / f"{name}.txt").write_text(TEXT)
    except (OSError, ValueError):
        pytest.skip("file names here are of other characters")
    process = start(
        *("train", "--data", f"{name}.txt", *TINY, "--out", "run", "--device", "cpu"),
        cwd=tmp_path,
        env={"PYTHONWARNINGS": "error"},
    )
    code, out, error = finish(process)
    assert (code, error) == (0, "")
    assert "was not drawn" not in out
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("two\nlines"),
        OSError(28, "No space left on device"),
        MemoryError(),
        ImportError("no Agg"),
        UserWarning("of a font"),
    ],
)
def test_whatever_goes_wrong_is_one_line(error, folder, monkeypatch):
    def fail(figure):
        raise error

    monkeypatch.setattr(picture, "png", fail)
    said = []
    plot_losses(folder, "title", said.append)
    assert len(said) == 1
    assert said[0].startswith(f"{str(folder.loss_picture)!r} was not drawn: ")
    assert "\n" not in said[0]
    assert not folder.loss_picture.exists()


def test_damaged_records_are_told_and_draw_nothing(folder):
    folder.metrics.write_text('{"step": 1}\nnonsense\n')
    said = []
    plot_losses(folder, "title", said.append)
    assert "line 2 of" in said[0]


def test_warnings_and_settings_of_others_are_left_alone(folder):
    before = list(warnings.filters)
    plot_losses(folder, "$x", refuse)
    assert warnings.filters == before


@pytest.mark.parametrize("writable", [True, False])
def test_no_folder_for_the_library_is_no_reason_to_fail(writable, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file" / "inside")  # a folder that nobody can make, not even root
    environment = {"HOME": nowhere, "MPLCONFIGDIR": nowhere, "XDG_CACHE_HOME": nowhere}
    if not writable:
        environment["TMPDIR"] = nowhere
    process = start(
        *("train", "--data", "text.txt", *TINY, "--out", "run"), cwd=tmp_path, env=environment
    )
    code, out, error = finish(process)
    assert (code, error) == (0, "")
    assert out.count("was not drawn") <= 1
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_a_backend_that_is_none_is_no_reason_to_fail(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    process = start(
        *("train", "--data", "text.txt", *TINY, "--out", "run"),
        cwd=tmp_path,
        env={"MPLBACKEND": "nonsense"},
    )
    code, out, error = finish(process)
    assert (code, error) == (0, "")
    assert out.count("'run/loss.png' was not drawn: ") == 1


def test_a_chart_that_cannot_be_drawn_is_one_line(tmp_path, capsys, monkeypatch):
    from tinygrad_char.benchmarks import report

    monkeypatch.chdir(tmp_path)
    rows = [{"task": "t", "contender": "c", "difference": 0.0, "bound": 1.0, "agrees": True}]
    made = report.Report("name", report.Options(chart=Path("found.png")), 0.0)
    made.rows = rows  # without seconds, which the picture needs
    assert made.finish() == 0
    assert capsys.readouterr().err == "'found.png' was not drawn: 'seconds'\n"
    assert list(tmp_path.iterdir()) == []
