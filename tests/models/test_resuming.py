import json
import shutil
from dataclasses import replace

import pytest
from tiny_runs import TINY

from tinygrad_char.models import cli
from tinygrad_char.models.config import EARLIER_SMALL as SMALL
from tinygrad_char.models.resuming import describe_resumption, settings

DATA = {"argument": "text.txt", "characters": 3, "sha256": "0"}


def test_a_run_that_goes_on_as_it_was_says_from_where():
    assert describe_resumption(SMALL, SMALL, 1500) == ["resumed at step 1,500 of 2,000"]


def test_what_differs_is_named_with_both_values():
    gpt = replace(SMALL.gpt, dropout=0.5)
    now = replace(SMALL, batch_size=24, gpt=gpt, seed=1)
    assert describe_resumption(SMALL, now, 1)[1:] == [
        "changed batch_size 12 -> 24, seed 1337 -> 1, dropout 0.0 -> 0.5"
    ]


@pytest.mark.parametrize(
    "change", [{"steps": 4000}, {"lr": 1e-3}, {"min_lr": 0.5}, {"warmup": 1200}]
)
def test_another_schedule_is_said_by_the_next_rate(change):
    lines = describe_resumption(SMALL, replace(SMALL, **change), 1000)
    assert len(lines) == 3
    assert lines[2].startswith("rate    of the next step ")
    assert lines[2].endswith(", by the former settings 0.00235")


def test_both_rates_are_said_where_there_are_two():
    recipe = replace(SMALL, optimizer="muon", muon_lr=0.01)
    lines = describe_resumption(recipe, replace(recipe, muon_lr=0.02), 1000)
    assert lines[1:] == [
        "changed muon_lr 0.01 -> 0.02",
        "rate    Muon's of the next step 0.0117, by the former settings 0.00587",
    ]
    assert len(describe_resumption(recipe, replace(recipe, steps=4000), 1000)) == 4


def test_a_schedule_that_is_over_is_not_spoken_of():
    assert len(describe_resumption(SMALL, replace(SMALL, steps=1000), 1000)) == 2


def test_the_first_settings_are_the_whole_file(tmp_path):
    content, remark = settings(tmp_path / "config.json", SMALL, DATA, 0)
    assert json.loads(content) == {"config": SMALL.to_json(), "data": DATA}
    assert remark is None


def test_former_settings_and_entries_of_others_are_kept(tmp_path):
    path = tmp_path / "config.json"
    configs = [SMALL, replace(SMALL, lr=1.0), replace(SMALL, lr=1.0), replace(SMALL, lr=2.0)]
    for step, config in enumerate(configs):
        content, remark = settings(path, config, DATA, step)
        assert remark is None
        path.write_bytes(content)
        if step == 0:
            path.write_text(json.dumps({**json.loads(content), "note": "mine"}))
    kept = json.loads(path.read_text())
    assert kept["note"] == "mine"
    assert (kept["config"]["lr"], kept["data"]) == (2.0, DATA)
    former = [(each["until_step"], each["config"]["lr"]) for each in kept["earlier"]]
    assert former == [(1, SMALL.lr), (3, 1.0)]


def test_settings_of_a_version_that_had_fewer_are_no_former_ones(tmp_path):
    path, config = tmp_path / "config.json", SMALL.to_json()
    for name in ("optimizer", "ema"):
        del config[name]
    path.write_text(json.dumps({"config": config, "data": DATA}))
    kept = json.loads(settings(path, SMALL, DATA, 3)[0])
    assert kept == {"config": SMALL.to_json(), "data": DATA}


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '{"config": 1, "earlier": 2}'])
def test_a_file_that_is_none_is_said_and_written_anew(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content)
    written, remark = settings(path, SMALL, DATA, 5)
    values = json.loads(written)
    assert values["config"] == SMALL.to_json()
    if content.startswith('{"'):
        assert values["earlier"] == [{"until_step": 5, "config": 1}]
    else:
        assert remark.startswith(f"{str(path)!r} could not be read and is written anew: ")


def test_resuming_says_and_keeps_it_all(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    options = ["--steps", "6", "--batch-size", "3", "--lr", "0.5"]
    assert cli.run(["train", "--resume", str(tmp_path / "run"), *options]) == 0
    out = capsys.readouterr().out
    assert (
        "\nresumed at step 4 of 6\nchanged steps 4 -> 6, batch_size 2 -> 3, lr 0.004 -> 0.5\n"
        in out
    )
    assert "\nrate    of the next step 0.0248, by the former settings" in out
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [each["until_step"] for each in kept["earlier"]] == [4]
    assert kept["earlier"][0]["config"]["steps"] == int(TINY[1])
    assert kept["config"]["steps"] == 6
