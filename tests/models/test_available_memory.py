import math
import os
import re
import sys

import pytest

from tinygrad_char.models import memory
from tinygrad_char.models.config import GPTConfig, TrainConfig

SMALL = TrainConfig(model="bigram", gpt=GPTConfig(block_size=8), batch_size=4)


def limit(monkeypatch, machine, group):
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": machine, "SC_PAGE_SIZE": 1}.get)
    monkeypatch.setattr(memory, "memory_limit", lambda: group)


@pytest.mark.parametrize(
    ("machine", "group", "expected"),
    [(1 << 30, math.inf, 1 << 30), (1 << 30, 1 << 20, 1 << 20), (1 << 20, 2.0**63, 1 << 20)],
)
def test_the_machine_or_its_group_whichever_has_less(machine, group, expected, monkeypatch):
    limit(monkeypatch, machine, group)
    assert memory.available_memory() == expected


def test_where_nothing_tells(monkeypatch):
    limit(monkeypatch, 0, math.inf)
    monkeypatch.delattr(os, "sysconf")
    assert memory.available_memory() == sys.maxsize


def test_what_cannot_fit_is_refused_by_what_limits_it(monkeypatch):
    limit(monkeypatch, 1 << 30, math.inf)
    memory.check_memory(SMALL, 100, in_host_memory=True)
    limit(monkeypatch, 1 << 30, 1 << 16)
    refused = r"needed, and the control group of this process may have 6\.104e-05"
    with pytest.raises(MemoryError, match=refused):
        memory.check_memory(SMALL, 100, in_host_memory=True)
    limit(monkeypatch, 1 << 16, 1 << 30)
    with pytest.raises(MemoryError, match=re.escape("needed, and this machine has 6.104e-05")):
        memory.check_memory(SMALL, 100, in_host_memory=True)
