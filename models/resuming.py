"""What a person should know of a run that goes on, and what its config.json keeps."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from tinygrad_char.models.config import TrainConfig
from tinygrad_char.models.errors import UsageError
from tinygrad_char.models.optimizers import learning_rates
from tinygrad_char.regular_file import read_regular

_LARGEST = 1 << 24  # bytes of a config.json


def describe_resumption(before: TrainConfig, now: TrainConfig, step: int) -> list[str]:
    """Return lines that say where a run goes on, and what is not as it was.

    Another number of steps or another rate changes the whole schedule, and so the next step's
    learning rates, also where no option names it: then both rates are said.
    """
    old, new = _flat(before), _flat(now)
    changed = [f"{name} {old[name]} -> {new[name]}" for name in new if old[name] != new[name]]
    lines = [f"resumed at step {step:,} of {now.steps:,}"]
    if changed:
        lines.append(f"changed {', '.join(changed)}")
    for of, peak in (("", "lr"), ("Muon's ", "muon_lr"))[: 1 + (now.optimizer == "muon")]:
        rates = [learning_rates(each, getattr(each, peak))(step) for each in (before, now)]
        if rates[0] != rates[1] and step < now.steps:
            said = f"{rates[1]:.3g}, by the former settings {rates[0]:.3g}"
            lines.append(f"rate    {of}of the next step {said}")
    return lines


def settings(
    path: Path, config: TrainConfig, data: dict[str, Any], step: int
) -> tuple[bytes, str | None]:
    """Return the content of config.json for a run that is at `step`, and a remark if there is one.

    All entries of the former file are kept: its settings, where they were others, as one more of
    "earlier", with the step up to which they held.
    """
    kept, remark = _read(path)
    now = {"config": config.to_json(), "data": data}
    former = {name: kept[name] for name in now if name in kept}
    if former and _told(former) != _told(now):
        earlier = kept.get("earlier")
        before = earlier if isinstance(earlier, list) else []
        kept["earlier"] = [*before, {"until_step": step, **former}]
    return json.dumps({**now, **kept, **now}, indent=2).encode() + b"\n", remark


def _told(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without the place of the text's file on this disk, which may change.

    Settings that there were not yet in an earlier version have their defaults.
    """
    with contextlib.suppress(UsageError):
        config = TrainConfig.from_json(settings.get("config")).to_json()
        settings = {**settings, "config": config}
    data = settings.get("data")
    if not isinstance(data, dict):
        return settings
    return {**settings, "data": {name: data[name] for name in data if name != "inode"}}


def _read(path: Path) -> tuple[dict[str, Any], str | None]:
    try:
        kept = json.loads(read_regular(path, _LARGEST))
        if not isinstance(kept, dict):
            raise ValueError("it holds no JSON object")
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        return {}, f"{str(path)!r} could not be read and is written anew: {reason}"
    return kept, None


def _flat(config: TrainConfig) -> dict[str, Any]:
    values = config.to_json()
    shape = values.pop("gpt")
    return {**values, **shape}
