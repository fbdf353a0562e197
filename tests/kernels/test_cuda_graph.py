"""What recording on a GPU asks of CuPy, with a stand-in that takes note."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from tinygrad_char.kernels.cuda.graph import Recorder


class Stream:
    """A stream that knows whether it is captured."""

    def __init__(self, log, name):
        self.log, self.name, self.capturing = log, name, False

    def __enter__(self):
        self.log.append(f"enter {self.name}")
        return self

    def __exit__(self, *error):
        self.log.append(f"leave {self.name}")

    def synchronize(self):
        if self.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.log.append(f"wait for {self.name}")

    def begin_capture(self):
        self.capturing = True
        self.log.append("begin")

    def end_capture(self):
        self.capturing = False
        self.log.append("end")
        return SimpleNamespace(launch=lambda: self.log.append("launch"))


class FakeCupy:
    """As much of CuPy as recording needs."""

    def __init__(self):
        self.log, self.device = [], 0
        self.current = Stream(self.log, "current")
        self.streams = []
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(getDevice=lambda: self.device),
            MemoryPool=lambda: f"pool {len(self.streams)}",
            Stream=self.stream,
            get_current_stream=lambda: self.current,
            using_allocator=self.using_allocator,
            alloc_pinned_memory=lambda size: memoryview(bytearray(512)),  # whole pages
        )

    def stream(self, non_blocking):
        assert non_blocking
        self.streams.append(Stream(self.log, f"stream {len(self.streams)}"))
        return self.streams[-1]

    @contextmanager
    def using_allocator(self, allocator):
        self.log.append(f"use {allocator}")
        yield
        self.log.append(f"no longer {allocator}")


@pytest.fixture
def cupy():
    return FakeCupy()


@pytest.fixture
def recorder(cupy):
    return Recorder(cupy, lambda module, pool: pool)


def test_a_recording_is_made_on_a_stream_with_memory_of_its_own(cupy, recorder):
    result, repeat = recorder.capture(lambda: cupy.log.append("work") or "arrays")
    assert result == "arrays"
    assert cupy.log == [
        *("wait for current", "use pool 0", "enter stream 0", "begin", "work", "end"),
        *("leave stream 0", "no longer pool 0"),
    ]
    del cupy.log[:]
    repeat()
    repeat()
    assert cupy.log == ["launch", "launch"]


def test_warming_up_happens_in_the_same_place_and_is_waited_for(cupy, recorder):
    assert recorder.warm_up(lambda: cupy.log.append("work") or 5) == 5
    place = cupy.log[:3]
    assert cupy.log[3:5] == ["work", "wait for stream 0"]
    del cupy.log[:]
    recorder.capture(lambda: None)
    assert cupy.log[:3] == place
    assert len(cupy.streams) == 1


def test_a_buffer_of_the_host_is_of_the_size_asked_for_and_can_be_written(recorder):
    buffer = recorder.host_buffer(40)
    buffer[...] = 1
    assert buffer.sum() == 40


def test_each_device_has_its_own_place(cupy, recorder):
    recorder.warm_up(lambda: None)
    cupy.device = 1
    recorder.warm_up(lambda: None)
    assert len(cupy.streams) == 2


def test_an_error_ends_the_recording_and_is_the_one_that_is_seen(cupy, recorder):
    def invalid():
        cupy.streams[0].capturing = False
        raise RuntimeError("capture invalidated")

    def work():
        cupy.streams[0].end_capture = invalid
        cupy.streams[0].synchronize()

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        recorder.capture(work)
    assert not cupy.streams[0].capturing
    assert cupy.log[-1] == "leave stream 0"
