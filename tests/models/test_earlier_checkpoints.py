"""Checkpoints that an earlier version wrote: they load, generate and resume as they did then.

`earlier/` has a run folder of 300 steps for each kind of model, and `after.safetensors`, which is
what that version made of it with 40 steps more.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tinygrad_char import checkpoint
from tinygrad_char.models import cli
from tinygrad_char.models.build import load_checkpoint

EARLIER = Path(__file__).parent / "earlier"
TEXTS = {
    "bigram": "an75.\nourourourourourou",
    "lecture": "thre threee thre: 4.\nth",
    "nanogpt": "o: 5 and 2.\nththt seee:",
}
kinds = pytest.mark.parametrize("kind", TEXTS)


def loaded(path):
    return checkpoint.load(path, lambda *_: None)


@kinds
def test_an_earlier_checkpoint_has_the_model_of_its_settings(kind):
    tensors, metadata = loaded(EARLIER / kind / "last.safetensors")
    model = load_checkpoint(EARLIER / kind / "last.safetensors").model
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.detach().numpy(), tensors[f"model.{name}"])
    assert model.block_size == metadata["config"]["gpt"]["block_size"]


@kinds
def test_it_writes_the_text_that_it_wrote(kind, tmp_path, capsys):
    shutil.copy(EARLIER / kind / "after.safetensors", tmp_path / "last.safetensors")
    options = ["--temperature", "0", "--prompt", "two ", "--length", "23"]
    assert cli.run(["generate", str(tmp_path / "last.safetensors"), *options]) == 0
    assert "two " + TEXTS[kind] in capsys.readouterr().out


@kinds
def test_it_goes_on_as_it_did(kind, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(EARLIER / kind, run, ignore=shutil.ignore_patterns("after*"))
    text = str(EARLIER / "numbers.txt")
    assert cli.run(["train", "--resume", str(run), "--steps", "340", "--data", text]) == 0
    tensors, metadata = loaded(run / "last.safetensors")
    expected, then = loaded(EARLIER / kind / "after.safetensors")
    assert tensors.keys() == expected.keys()
    for name, array in tensors.items():  # other processors add up in another order
        assert array.dtype == expected[name].dtype
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-4, err_msg=name)
    assert (metadata["step"], metadata["random"]) == (then["step"], then["random"])
    settings = metadata["config"]
    assert {name: settings[name] for name in then["config"] if name != "gpt"} == {
        name: value for name, value in then["config"].items() if name != "gpt"
    }
    assert settings["gpt"].items() >= then["config"]["gpt"].items()
