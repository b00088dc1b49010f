"""Loading into modules whose checkpoints are older than they are."""

import pytest
import torch

from l2fmt import InputError, load_model, save_file


def test_checkpoints_without_batch_counters_fit(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = {name: torch.rand_like(t) for name, t in net.state_dict().items() if t.is_floating_point()}
    save_file(state, tmp_path / "x.l2c")
    assert load_model(net, tmp_path / "x.l2c") == ([], [])
    assert torch.equal(net.state_dict()["1.running_var"], state["1.running_var"])
    del state["1.running_var"]
    save_file(state, tmp_path / "x.l2c")
    with pytest.raises(InputError, match=r"missing '1\.running_var'$"):
        load_model(net, tmp_path / "x.l2c")
