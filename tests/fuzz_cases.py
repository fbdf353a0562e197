"""What a fuzzer tries: checkpoints, run folders and options that no run of ours would make."""

import json
import math
import os
import shutil

import numpy as np
from tiny_runs import TINY, train

from tinygrad_char import checkpoint

SHAPES = {
    "gpt": [],
    "untied": ["--no-tied", "--bias", "--activation", "gelu"],
    "bigram": ["--model", "bigram"],
}
INTEGERS = [
    *(-1, 0, 1, 2, 3, 7, 8, 255, 10**3, 2**31 - 1, 2**31, 2**32, 2**40, 10**15, 2**53, 2**62),
    *(2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**127, 2**128, 10**399, -(2**63), -(10**399)),
]
FLOATS = [0.0, -0.0, 0.5, 1.0, -1.0, 1e-320, 1e-30, 1e30, 1e308, math.inf, -math.inf, math.nan]
TEXTS = [
    *("", " ", "\0", "a\0b", "\n", "abc", "cpu", "cuda", "gpt", "PCG64DXSM", "\u2603", "\ud800"),
    *("\x1b[2J", "nan", "inf", "../../etc/passwd", "/dev/zero", "/etc/passwd", "x" * 5000),
    *("%s%n", "{0.__class__}", "$(touch pwned)", "shakespeare ", "pydoc", "\u202egpj.exe"),
]


def base_runs(folder):
    """Train the runs that are spoiled, each in a folder of its own, and return their names."""
    for name, options in SHAPES.items():
        (folder / name).mkdir()
        assert train(folder / name / "run", *options) == 0
    return list(SHAPES)


def any_value(rng, depth=2):
    """Return a value that JSON can hold, seldom a sensible one."""
    kind = rng.randrange(9 if depth else 6)
    if kind < 2:
        return rng.choice(INTEGERS)
    if kind < 4:
        return rng.choice(FLOATS)
    if kind == 4:
        return rng.choice(TEXTS)
    if kind == 5:
        return rng.choice([None, True, False])
    if kind == 6:
        return [any_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 7:
        return {rng.choice(TEXTS): any_value(rng, depth - 1) for _ in range(rng.randrange(4))}
    value = rng.choice([[], {}])
    for _ in range(rng.choice([10, 300])):
        value = [value]
    return value


# Checkpoints whose bytes were changed


def mutated_bytes(rng, data):
    """Return the bytes of a file after one to four accidents."""
    data = bytearray(data)
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        # Half of them in the header, where bytes mean more.
        at = rng.randrange(min(header, len(data)) if rng.random() < 0.5 else len(data) or 1)
        accident = rng.randrange(8)
        if accident == 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif accident == 1:
            data[at : at + 1] = bytes([data[at] ^ 1 << rng.randrange(8)]) if at < len(data) else b""
        elif accident == 2:
            del data[at:]
        elif accident == 3:
            del data[at : at + rng.choice([1, 2, 8, 100])]
        elif accident == 4:
            data[at:at] = rng.randbytes(rng.choice([1, 2, 8, 100]))
        elif accident == 5:
            data[at : at + 20] = data[header : header + 20]
        elif accident == 6:
            data[:8] = rng.choice([0, 1, 8, len(data), 2**31, 2**62, 2**63, 2**64 - 1]).to_bytes(
                8, "little"
            )
        else:
            old = rng.choice([b'"F32"', b"[", b"]", b"{", b"}", b":", b",", b'"', b"0", b"1"])
            new = rng.choice([b'"I64"', b"[[", b"", b"{}", b"-1", b"9" * 400, b"null", b"1e999"])
            data = bytearray(bytes(data).replace(old, new, rng.choice([1, 2, -1])))
        if not data:
            break
    return bytes(data)


# Checkpoints with a hash of their own, that say what they like


def write_hostile(rng, source, target):
    """Write a file that is in order as a file, but not as a checkpoint of a run."""
    tensors, metadata = checkpoint.load(source)
    for _ in range(rng.choice([1, 1, 2, 3])):
        rng.choice([spoil_metadata, spoil_metadata, spoil_tensors])(rng, tensors, metadata)
    text = json.dumps(metadata)
    if rng.random() < 0.05:
        text = rng.choice(["[]", "null", "{", "[" * 10**5, '{"config": ' * 3000, "1" * 5000, '"a"'])
    data, header = b"", {}
    for name, array in tensors.items():
        end = len(data) + array.nbytes
        dtype = checkpoint._DTYPES[array.dtype]
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    header["__metadata__"] = {
        "format": "tinygrad_char",
        "version": "1",
        "json": text,
        "sha256": checkpoint._digest(text, tensors),
    }
    if rng.random() < 0.15:
        spoil_header(rng, header)
    encoded = json.dumps(header).encode()
    target.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


def spoil_header(rng, header):
    names = [name for name in header if name != "__metadata__"]
    entry = header[rng.choice(names)] if names else {}
    what = rng.randrange(5)
    if what == 0:
        entry["shape"] = [rng.choice(INTEGERS) for _ in range(rng.randrange(4))]
    elif what == 1:
        entry["shape"] = rng.choice([[0, 2**62], [1] * 40, [2**32, 2**32], [0] * 70])
        entry["data_offsets"] = [0, 0]
    elif what == 2:
        entry["data_offsets"] = [rng.choice(INTEGERS), rng.choice(INTEGERS)]
    elif what == 3:
        entry[rng.choice(["dtype", "shape", "data_offsets"])] = any_value(rng)
    else:
        header["__metadata__"][rng.choice(["format", "version", "sha256", "json"])] = rng.choice(
            ["", "x", "\x1b[2J", "2", "0" * 64, "9" * 10**4]
        )


def spoil_metadata(rng, tensors, metadata):
    """Put something else in the place of one value, however deep."""
    place = metadata
    path = []
    while True:
        key = rng.choice(list(place))
        path.append(key)
        if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.1:
            break
        place = place[key]
    what = rng.randrange(10)
    if what == 0:
        del place[key]
    elif what == 1:
        place[rng.choice([*TEXTS, "momentum"])] = any_value(rng)
    elif type(place[key]) is int and what < 7:
        place[key] = rng.choice([*INTEGERS, place[key] + 1, -place[key]])
    elif type(place[key]) is float and what < 7:
        place[key] = rng.choice(FLOATS)
    elif type(place[key]) is str and what < 7:
        place[key] = rng.choice([*TEXTS, place[key][::-1], place[key][1:], place[key] + "\u2603"])
    elif not isinstance(place[key], dict) or rng.random() < 0.5:
        place[key] = any_value(rng)
    if not metadata:
        metadata["x"] = 1


def spoil_tensors(rng, tensors, metadata):
    if not tensors:
        return
    name = rng.choice(list(tensors))
    array = tensors[name]
    what = rng.randrange(9)
    if what == 0:
        del tensors[name]
    elif what == 1:
        tensors[rng.choice([*TEXTS, "model.x", "optimizer.x"]).replace("\ud800", "?")] = array
    elif what == 2:
        tensors[name] = array.reshape(rng.choice([(-1,), (1, -1), (-1, 1)]))
    elif what == 3:
        with np.errstate(all="ignore"):
            dtype = rng.choice([np.float64, np.float16, np.int32, np.bool_])
            tensors[name] = array.astype(dtype)
    elif what == 4:
        tensors[name] = np.zeros(rng.choice([(0,), (), (0, 5), (1,) * 20]), array.dtype)
    elif what == 5:
        tensors[name] = np.concatenate([np.atleast_1d(array)] * 2)
    else:
        value = rng.choice([math.nan, math.inf, 1e38, -3e38, 1e-45, 2**62, -1])
        changed = array.copy().reshape(-1)
        with np.errstate(all="ignore"):
            where = rng.choice([slice(None), slice(0, 1)])
            changed[where] = np.array(value).astype(array.dtype)
        tensors[name] = changed.reshape(array.shape)


# Folders


NAMES = [
    *("last.safetensors", "best.safetensors", "metrics.jsonl", "config.json", "loss.png"),
    *("run.pid", "run.lock", "metrics.damaged.jsonl", ".tinygrad_char-1-0123abcd.tmp"),
]
LINES = [
    *(b"", b"{", b"[1]", b"\xff", b"\0\0", b"[" * 10**5, b'{"a":' * 10**4, b"1" * 5000, b"null"),
    *(b'{"step": "1"}', b'{"loss": 1}', b'{"step": 1, "loss": []}', b'{"step": -1}'),
    *(b'{"step": 1e999}', b'{"step": NaN}', b'{"step": 1, "loss": 1e999}', b"{}" * 9),
    *(b'{"step": 2, "validation_loss": "nan"}', b'{"step": 99999999999999999999}'),
    *(b'{"step": 3, "sample": "\\ud800\\u001b[2J"}', b" " * (2 << 20), b'{"step": 1}\r'),
    b'{"step": 1, "loss": ' + b"9" * 400 + b"}",
]


def damage_folder(rng, folder, outside):
    """Do one to three things to a run's folder, some of which lead out of it."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        path = folder / rng.choice(NAMES)
        what = rng.randrange(12)
        if path.name == "metrics.jsonl" and rng.random() < 0.6:
            what = 12
        if what < 9 and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif what < 9:
            small = path.is_file() and path.stat().st_size < 1 << 20
            former = path.read_bytes() if small else b""
            path.unlink(missing_ok=True)
        if what == 0:
            path.symlink_to(outside / "file")
        elif what == 1:
            path.symlink_to(rng.choice([outside / "new", outside, "/dev/zero", "/dev/null", path]))
        elif what == 2:
            path.hardlink_to(outside / "file")
        elif what == 3:
            os.mkfifo(path)
        elif what == 4:
            path.mkdir()
        elif what == 5:
            path.write_bytes(b"")
        elif what == 6:
            path.write_bytes(rng.randbytes(rng.choice([1, 100, 10**4])))
        elif what == 7:
            with path.open("wb") as file:
                file.truncate(rng.choice([10, 1 << 20, 1 << 33]))
        elif what == 8:
            path.write_bytes(mutated_bytes(rng, former) if len(former) > 8 else b"[" * 10**5)
        elif what == 9 and not (folder / "last.safetensors").is_dir():
            (folder / "last.safetensors").unlink(missing_ok=True)
        elif what == 10 and (folder / "best.safetensors").is_file():
            other = folder / "last.safetensors"
            size = (folder / "best.safetensors").stat().st_size
            if other.is_file() and not other.is_symlink() and size < 1 << 20:
                other.unlink()
                shutil.copyfile(folder / "best.safetensors", other)
        elif (
            what == 12
            and path.is_file()
            and not path.is_symlink()
            and (path.stat().st_size < 1 << 20)
        ):
            lines = path.read_bytes().split(b"\n")
            lines[rng.randrange(len(lines))] = rng.choice(LINES)
            path.unlink()
            path.write_bytes(b"\n".join(lines))


# Options


WORDS = [
    *(str(number) for number in INTEGERS if abs(number) < 8 or abs(number) > 2**30),
    *("9" * 400, "-" + "9" * 400, "9" * 5000, "0." + "0" * 400 + "1", "1" * 400 + ".5", "1e400"),
    *("1e-400", "nan", "inf", "-inf", "-0", "0x10", "1_0", " 1 ", "1.5", "0.5", "1e3", "\u0663"),
    *("None", "True", "", "-", "--", "--help", "-h", "[]", "{}", "*", "a" * 10**4, "a/" * 3000),
    *("cpu", "cuda", "gpt", "bigram", "bf16", "tf32", "auto", "skip", "replace", "last"),
    *("train", "all", "text.txt", "run", "fifo", "/dev/zero", "missing", ".", "..", "/", "run/x"),
    *(
        "run/last.safetensors",
        "run/metrics.jsonl",
        "new",
        "caf\u00e9",
        "\u2603",
        "\udcff",
        "\x1b[2J",
    ),
    *("a\0b", "\n", "pydoc", "~", "$HOME", "a\nb", "new\u202e", "'", '"', "`id`", "relu", "gelu"),
]
NUMBERS = [each for each in WORDS if each[-1:].isdigit() or each[-3:] in ("nan", "inf")]
NUMERIC = {
    *("--steps", "--seed", "--batch-size", "--accumulate", "--shards", "--lr", "--min-lr"),
    *("--warmup", "--beta1", "--beta2", "--weight-decay", "--clip", "--eval-every", "--dropout"),
    *("--eval-batches", "--log-every", "--sample-every", "--block-size", "--n-layer", "--n-head"),
    *("--n-embd", "--length", "--samples", "--temperature", "--top-k", "--top-p"),
}
COMMANDS = {
    "train": (
        *("--preset", "--data", "--out", "--resume", "--json", "--model", "--steps", "--seed"),
        *("--batch-size", "--accumulate", "--shards", "--lr", "--min-lr", "--warmup", "--beta1"),
        *("--beta2", "--weight-decay", "--clip", "--eval-every", "--eval-batches", "--log-every"),
        *("--sample-every", "--device", "--precision", "--deterministic", "--no-deterministic"),
        *("--block-size", "--n-layer", "--n-head", "--n-embd", "--dropout", "--bias", "--no-bias"),
        *("--activation", "--tied", "--no-tied", "--nonsense", "-x", "--config", "--gpt"),
    ),
    "generate": (
        *("run", "--prompt", "--length", "--samples", "--temperature", "--top-k", "--top-p"),
        *("--stop", "--seed", "--unknown", "--checkpoint", "--slide", "--device", "--json"),
    ),
    "evaluate": ("run", "--data", "--split", "--checkpoint", "--unknown", "--device", "--json"),
    "data": ("text.txt", "--json", "fifo", "/dev/zero", "missing"),
    "doctor": ("--json",),
}
BASES = {
    "train": ["--data", "text.txt", *TINY],
    "generate": ["run", "--length", "3"],
    "evaluate": ["run"],
    "data": [],
    "doctor": [],
}


def any_command(rng):
    """Return a command line with up to three odd options, and whether it may never end."""
    command = rng.choice(["train"] * 5 + ["generate"] * 4 + ["evaluate", "data", "doctor"])
    arguments = [command, *BASES[command]]
    if command == "train" and rng.random() < 0.3:
        arguments = ["train", "--resume", "run", "--steps", "5"]
    odd = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        option = rng.choice(COMMANDS[command])
        value = rng.choice(NUMBERS if option in NUMERIC and rng.random() < 0.8 else WORDS)
        shape = rng.randrange(4)
        odd.append(option)
        if shape == 0:
            arguments.append(f"{option}={value}")
        elif shape == 1 and rng.random() < 0.3:
            arguments.append(option)
        else:
            arguments += [option, value]
    if rng.random() < 0.03:
        arguments[0] = rng.choice(WORDS)
    return arguments, any(each.startswith(("--steps", "--length")) for each in odd)
