import errno
import json
import math
import os
import re
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygrad_char import checkpoint
from tinygrad_char.models.errors import RunError, UsageError
from tinygrad_char.models.run_folder import KeptMetrics, RunFolder, resolve_checkpoint

LOSSES = ("loss", "lr", "norm", "train_loss", "validation_loss")
HOLDER = """
import sys
from tinygrad_char.models.run_folder import RunFolder

with RunFolder.open(sys.argv[1]).lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("run_folder")


@pytest.fixture
def run(tmp_path):
    """Return the folder of a run that has saved both checkpoints."""
    folder = RunFolder.create(tmp_path / "runs" / "small")
    for path in (folder.last, folder.best):
        checkpoint.save(path, {"w": np.zeros(2)}, {"step": 1})
    return RunFolder.open(folder.path)


@pytest.fixture
def holder(run):
    """Return a process that holds the lock of `run` until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


@pytest.fixture
def read_only_folder(mounted):
    """Return a folder on a read-only filesystem."""
    return mounted("ro,size=64k")


def fails_with(code):
    def fail(*arguments, **options):
        raise OSError(code, os.strerror(code))

    return fail


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_new_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    folder = RunFolder.create(tmp_path / "a" / "b" / "run")
    assert folder.path.is_dir()
    assert names(folder.path) == []


def test_empty_folder_is_taken(tmp_path):
    assert RunFolder.create(tmp_path).path == tmp_path


def test_folder_of_a_run_that_ended_before_it_wrote_anything_is_taken(tmp_path):
    with RunFolder.create(tmp_path).lock():
        (tmp_path / ".tinygrad_char-1-0123abcd.tmp").write_bytes(b"half")
    RunFolder.create(tmp_path)


def test_folder_with_a_run_is_never_taken(run):
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(UsageError) as error:
        RunFolder.create(run.path)
    assert f"--resume {run.path}" in str(error.value)
    assert "another --out" in str(error.value)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_folder_with_other_things_is_never_taken(tmp_path):
    for name in "abcd":
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=r"it has a, b, c, \.\.\.\)") as error:
        RunFolder.create(tmp_path)
    assert "--resume" not in str(error.value)


def test_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UsageError, match="is a file"):
            RunFolder.create(path)
        with pytest.raises(UsageError, match="is a file"):
            RunFolder.create_numbered(path, "run")


def test_names_are_numbered(tmp_path):
    made = [RunFolder.create_numbered(tmp_path / "runs", "small").path.name for _ in range(3)]
    assert made == ["small", "small-2", "small-3"]


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: RunFolder.create_numbered(tmp_path, "a").path, range(24)))
    assert len(set(made)) == 24
    assert len(names(tmp_path)) == 24


def test_read_only_filesystem_is_found_at_once(read_only_folder):
    attempts = [
        lambda: RunFolder.create(read_only_folder),
        lambda: RunFolder.create(read_only_folder / "run"),
        lambda: RunFolder.create_numbered(read_only_folder, "run"),
        lambda: RunFolder.create_numbered(read_only_folder / "runs", "run"),
        lambda: RunFolder(read_only_folder).lock().__enter__(),
    ]
    for attempt in attempts:
        with pytest.raises(RunError, match=r"Read-only file system\. Choose a folder"):
            attempt()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_folder_that_cannot_be_written_is_found_at_once(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", fails_with(code))
    for attempt in (RunFolder.create, lambda path: RunFolder.create_numbered(path, "run")):
        with pytest.raises(RunError, match=os.strerror(code)):
            attempt(tmp_path)
    assert names(tmp_path) == []


def test_folder_of_a_run_is_opened_even_if_read_only(run, monkeypatch):
    monkeypatch.setattr(os, "fsync", fails_with(errno.EROFS))
    assert RunFolder.open(run.path).last == run.path / "last.safetensors"


def test_missing_folder_is_refused_with_near_names(run):
    with pytest.raises(UsageError, match=r"Did you mean '.*runs/small'\?"):
        RunFolder.open(run.path.parent / "smal")
    with pytest.raises(UsageError, match="tinygrad-char train"):
        RunFolder.open(run.path.parent / "zzzzzz")
    with pytest.raises(UsageError, match="there is no run folder"):
        RunFolder.open(run.path / "not" / "there")


def test_file_is_refused_as_folder_and_its_folder_is_named(run):
    with pytest.raises(UsageError, match=f"Did you mean '{run.path}'"):
        RunFolder.open(run.last)


def test_folder_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no checkpoint"):
        RunFolder.open(tmp_path)


def test_folder_that_cannot_be_looked_at_is_refused(tmp_path):
    with pytest.raises(UsageError, match="too long"):
        RunFolder.open(tmp_path / ("a" * 300))
    with pytest.raises(UsageError, match="too long"):
        resolve_checkpoint(tmp_path / ("a" * 300))


def test_lock_of_another_process_is_respected_and_the_process_named(run, holder):
    with pytest.raises(RunError, match=f"in use by process {holder.pid}") as error, run.lock():
        pytest.fail("two processes hold the lock")
    assert "--out" in str(error.value)


def test_lock_is_free_after_its_process_was_killed(run, holder):
    holder.kill()
    holder.wait()
    with run.lock():
        assert (run.path / "run.pid").read_text() == str(os.getpid())
    assert not (run.path / "run.pid").exists()


def test_lock_is_free_after_its_process_ended(run, holder):
    holder.stdin.close()
    assert holder.wait() == 0
    with run.lock():
        assert (run.path / "run.pid").exists()


def test_lock_excludes_a_second_user_in_this_process_too(run):
    with run.lock():
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}"), run.lock():
            pytest.fail("the lock was taken twice")
        assert (run.path / "run.pid").exists()


def test_holder_that_has_not_written_its_id_is_another_process(run):
    with run.lock():
        (run.path / "run.pid").unlink()
        with pytest.raises(RunError, match="in use by another process"), run.lock():
            pytest.fail("the lock was taken twice")


def test_error_under_the_lock_passes_and_frees_it(run):
    with pytest.raises(OSError, match="own error"), run.lock():
        raise OSError("own error")
    with run.lock():
        assert (run.path / "run.pid").exists()


def test_a_folder_that_went_away_is_said_as_what_could_not_be_written(tmp_path):
    folder = RunFolder.create(tmp_path / "run")

    def work():
        with folder.lock():
            folder.path.rename(tmp_path / "moved")
            folder.append_metrics({"step": 1})

    with pytest.raises(RunError, match=r"cannot write '.*metrics\.jsonl'"):
        work()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_lock_is_not_given_back_by_a_forked_process(run):
    program = (
        "import os, sys\n"
        "from tinygrad_char.models.run_folder import RunFolder\n"
        "with RunFolder.open(sys.argv[1]).lock():\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        assert os.waitpid(child, 0)[1] == 0\n"
        "        print('locked', flush=True)\n"
        "        sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=f"in use by process {holder.pid}"), run.lock():
            pytest.fail("two processes hold the lock")
        holder.stdin.close()
        assert holder.wait() == 0
    assert not (run.path / "run.pid").exists()


def test_lock_that_cannot_write_is_given_back(run, monkeypatch):
    monkeypatch.setattr(os, "fsync", fails_with(errno.ENOSPC))
    with pytest.raises(RunError, match="No space left"), run.lock():
        pytest.fail("the lock was taken without a word of whom")
    monkeypatch.undo()
    with run.lock():
        assert (run.path / "run.pid").exists()


def test_lock_deletes_what_killed_saves_left(run):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (run.path / f".tinygrad_char-{ended.pid}-0123abcd.tmp").write_bytes(b"half")
    with run.lock():
        assert not [name for name in names(run.path) if name.endswith(".tmp")]


def test_new_folder_that_another_run_has_used_meanwhile_is_not_overwritten(tmp_path):
    first, second = RunFolder.create(tmp_path), RunFolder.create(tmp_path)
    with first.lock():
        checkpoint.save(first.last, {}, {})
    with pytest.raises(UsageError, match="not empty"), second.lock():
        pytest.fail("a second run writes into the folder")
    with first.lock():
        assert first.last.exists()


@settings(deadline=None, max_examples=60)
@given(
    records=st.lists(
        st.builds(
            lambda step, more: {**more, "step": step},
            st.integers(0, 2**63 - 1),
            st.dictionaries(
                st.text().filter(lambda key: key not in (*LOSSES, "sample")),
                st.floats(width=64)
                | st.integers()
                | st.text().filter(lambda text: text not in ("nan", "inf", "-inf"))
                | st.none(),
            ),
        ),
        max_size=4,
    )
)
def test_metrics_come_back_exactly_and_are_strict_json(scratch, records):
    folder = RunFolder(scratch)
    folder.metrics.unlink(missing_ok=True)
    for record in records:
        folder.append_metrics(record)
    assert repr(folder.read_metrics()) == repr(records)

    def refuse(constant):
        pytest.fail(f"{constant} is not JSON")

    lines = folder.metrics.read_bytes().splitlines() if records else []
    assert len([json.loads(line, parse_constant=refuse) for line in lines]) == len(records)


def test_numbers_that_are_not_finite_come_back(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1, "a": math.nan, "b": -math.inf, "c": np.float64("inf")})
    assert folder.metrics.read_text() == '{"step": 1, "a": "nan", "b": "-inf", "c": "inf"}\n'
    record = folder.read_metrics()[0]
    assert math.isnan(record["a"])
    assert (record["b"], record["c"]) == (-math.inf, math.inf)


def test_metrics_without_a_file_are_none(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    folder.truncate_metrics(0)
    assert names(tmp_path) == []


def test_half_written_last_line_is_left_out_wherever_it_was_cut(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1})
    folder.append_metrics({"step": 2, "loss": 1.5})
    data = folder.metrics.read_bytes()
    first = data.index(b"\n") + 1
    for length in range(first, len(data)):
        folder.metrics.write_bytes(data[:length])
        assert folder.read_metrics() == [{"step": 1}]
        folder.truncate_metrics(2)
        assert folder.metrics.read_bytes() == data[:first]


BROKEN = [b"{", b"", b"[1]", b"7", b"\xff", b"\0\0\0", b"{}{}"]


@pytest.mark.parametrize("broken", BROKEN)
def test_any_other_broken_line_is_named(tmp_path, broken):
    folder = RunFolder(tmp_path)
    data = b'{"step": 1}\n' + broken + b'\n{"step": 3}\n'
    folder.metrics.write_bytes(data)
    with pytest.raises(RunError, match=r"line 2 of .*metrics\.jsonl"):
        folder.read_metrics()
    assert folder.metrics.read_bytes() == data


@pytest.mark.parametrize("broken", BROKEN)
def test_a_run_that_goes_on_keeps_what_comes_before_a_broken_line(tmp_path, broken):
    folder = RunFolder(tmp_path)
    data = b'{"step": 1}\n' + broken + b'\n{"step": 3}\n'
    folder.metrics.write_bytes(data)
    kept = folder.truncate_metrics(1)
    assert kept.records == 1
    assert kept.remark.startswith("1 of 1 records of the checkpoint are kept: line 2 of ")
    assert kept.remark.endswith(", and was cut off")
    assert folder.read_metrics() == [{"step": 1}]
    assert names(tmp_path) == ["metrics.jsonl"]
    folder.metrics.write_bytes(data)
    kept = folder.truncate_metrics(3)
    assert kept.records == 1
    assert kept.remark.startswith("1 of 3 records of the checkpoint are kept: line 2 of ")
    assert kept.remark.endswith(f"former file is '{tmp_path / 'metrics.damaged.jsonl'}'")
    assert folder.read_metrics() == [{"step": 1}]
    assert (tmp_path / "metrics.damaged.jsonl").read_bytes() == data


def test_the_file_is_believed_not_the_count(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.truncate_metrics(0) == KeptMetrics(0, None)
    for step in (0, 1, 4, 5, 4, 5):
        folder.append_metrics({"step": step})
    assert folder.truncate_metrics(6, step=5) == KeptMetrics(6, None)
    assert folder.truncate_metrics(6, step=4).records == 3
    assert [each["step"] for each in folder.read_metrics()] == [0, 1, 4]
    kept = folder.truncate_metrics(5, step=4)
    assert kept.records == 3
    assert kept.remark == (
        f"3 of 5 records of the checkpoint are kept: '{folder.metrics}' has no others of its steps"
    )
    folder.metrics.unlink()
    assert folder.truncate_metrics(5).records == 0
    assert names(tmp_path) == []


def test_records_are_synced_once_and_their_name_with_the_first(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def noted(file):
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}")))  # noqa: PTH115, PTH119
        fsync(file)

    monkeypatch.setattr(os, "fsync", noted)
    folder = RunFolder(tmp_path)
    folder.sync_metrics()
    assert synced == []
    folder.append_metrics({"step": 1})
    folder.sync_metrics()
    folder.sync_metrics()
    assert synced == ["metrics.jsonl", tmp_path.name]
    folder.append_metrics({"step": 2})
    folder.sync_metrics()
    assert synced == ["metrics.jsonl", tmp_path.name, "metrics.jsonl"]
    monkeypatch.setattr(os, "fsync", fails_with(errno.EIO))
    folder.append_metrics({"step": 3})
    with pytest.raises(RunError, match="Input/output error"):
        folder.sync_metrics()


def test_truncated_metrics_keep_the_first_records(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (0, 10, 20, 30):
        folder.append_metrics({"step": step, "loss": math.nan})
    whole = folder.metrics.read_bytes()
    for records in (5, 4):
        folder.truncate_metrics(records)
        assert folder.metrics.read_bytes() == whole
    folder.truncate_metrics(2)
    assert whole.startswith(folder.metrics.read_bytes())
    assert [record["step"] for record in folder.read_metrics()] == [0, 10]


def test_metrics_that_cannot_be_written_leave_no_half_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    try:
        with pytest.raises(RunError, match=r"metrics\.jsonl': File too large"):
            folder.append_metrics({"step": 2, "sample": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    folder.append_metrics({"step": 3})
    assert folder.read_metrics() == [{"step": 1}, {"step": 3}]


def test_checkpoint_of_a_folder_is_the_one_asked_for(run):
    assert resolve_checkpoint(run.path) == run.best
    assert resolve_checkpoint(run.path, "last") == run.last
    assert resolve_checkpoint(str(run.last)) == run.last


def test_last_checkpoint_stands_in_for_the_best(run):
    run.best.unlink()
    assert resolve_checkpoint(run.path) == run.last


def test_best_checkpoint_does_not_stand_in_for_the_last(run):
    run.last.unlink()
    with pytest.raises(UsageError, match=r"has no last\.safetensors"):
        resolve_checkpoint(run.path, "last")


def test_missing_checkpoint_is_refused_with_near_names(run, tmp_path):
    with pytest.raises(UsageError, match=r"Did you mean .*last\.safetensors"):
        resolve_checkpoint(run.path / "lst.safetensors")
    with pytest.raises(UsageError, match="holds no checkpoint"):
        resolve_checkpoint(tmp_path)


# Folders of strangers

OWN = ("last.safetensors", "best.safetensors", "metrics.jsonl", "config.json", "loss.png")
OWN = (*OWN, "run.pid", "run.lock")


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("kind", ["link", "dangling", "link to a folder", "fifo", "folder"])
def test_what_a_run_never_makes_is_refused_and_nothing_is_written(tmp_path, run, name, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (run.path / name).unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(run.path / name)
    elif kind == "folder":
        (run.path / name).mkdir()
    else:
        target = {"link": "file", "dangling": "new", "link to a folder": "."}[kind]
        (run.path / name).symlink_to(outside / target)
    before = names(run.path)
    with pytest.raises(RunError, match=re.escape(repr(str(run.path / name)))), run.lock():
        pytest.fail("the folder was taken")
    assert names(run.path) == before
    assert names(outside) == ["file"]
    assert (outside / "file").read_text() == "mine"


def test_a_lock_with_a_second_name_is_not_emptied(tmp_path, run):
    (tmp_path / "mine").write_text("mine")
    (run.path / "run.lock").unlink(missing_ok=True)
    (run.path / "run.lock").hardlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="hard link"), run.lock():
        pytest.fail("the folder was taken")
    assert (tmp_path / "mine").read_text() == "mine"


def test_metrics_with_a_second_name_grow_alone(tmp_path, run):
    line = '{"step": 1}\n'
    (tmp_path / "backup").write_text(line)
    run.metrics.hardlink_to(tmp_path / "backup")
    with run.lock():
        run.append_metrics({"step": 2})
    assert (tmp_path / "backup").read_text() == line
    assert [record["step"] for record in run.read_metrics()] == [1, 2]


def test_metrics_are_not_written_through_a_link_that_appears_later(tmp_path, run):
    (tmp_path / "mine").write_text("mine")
    with run.lock():
        run.metrics.symlink_to(tmp_path / "mine")
        with pytest.raises(RunError, match=r"metrics\.jsonl"):
            run.append_metrics({"step": 2})
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_holder_that_is_a_fifo_is_another_process(run):
    with run.lock():
        (run.path / "run.pid").unlink()
        os.mkfifo(run.path / "run.pid")
        assert run._holder() == "another process"
        (run.path / "run.pid").unlink()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"[" * 100_000, "a JSON record"),
        (b'{"step": 1, "loss": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "a JSON record"),
        (b'{"step": NaN}', "a JSON record"),
        (b'{"step": 1' + b"0" * 5000 + b"}", "a JSON record"),
        (b'{"loss": 1.0}', 'a record with a "step"'),
        (b'{"step": "1"}', "'step' is '1', not an integer"),
        (b'{"step": -1}', "'step' is -1, not an integer"),
        (b'{"step": true}', "'step' is True"),
        (b'{"step": 1.0}', "'step' is 1.0"),
        (b'{"step": 1' + b"0" * 400 + b"}", "'step' is a number of"),
        (b'{"step": 1, "loss": "high"}', "'loss' is 'high', not a number"),
        (b'{"step": 1, "validation_loss": null}', "'validation_loss' is None, not a number"),
        (b'{"step": 1, "lr": [1]}', "'lr' is [1], not a number"),
        (b'{"step": 1, "sample": 3}', "'sample' is 3, not a text"),
        (b'{"step": 1, "more": {}}', "'more' is {}, not one value"),
        (b'{"step": 1, "sample": "' + b"x" * (1 << 20) + b'"}', "at most 1,048,576 bytes"),
        (b"\0" * (2 << 20), "at most 1,048,576 bytes"),
    ],
    ids=range(17),
)
def test_a_damaged_line_of_metrics_is_named(tmp_path, line, said):
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(b'{"step": 0}\n' + line + b"\n")
    with pytest.raises(RunError, match=r"line 2 of .*metrics\.jsonl") as error:
        folder.read_metrics()
    assert said in str(error.value)
    assert len(str(error.value)) < 500


def test_metrics_that_are_no_file_are_an_error(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(RunError, match="not a regular file"):
        RunFolder(tmp_path).read_metrics()
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/zero")
    with pytest.raises(RunError, match="not a regular file"):
        RunFolder(tmp_path).read_metrics()
    (tmp_path / "metrics.jsonl").unlink()
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RunError, match="longer than"):
        RunFolder(tmp_path).read_metrics()
