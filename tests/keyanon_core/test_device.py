import pytest
import torch

from keyanon_core.device import usable_device
from keyanon_core.errors import DeviceError
from keyanon_core.priors import load_prior


def test_auto_takes_a_gpu_where_torch_has_one_and_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usable_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert usable_device() == torch.device("cuda")
    assert usable_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match=r"cuda:2 can not be used here: .* finds 2 GPU"):
        usable_device("cuda:2")


def test_a_gpu_that_is_not_there_is_refused_before_a_prior_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="device cuda can not be used here"):
        load_prior("no/such/prior", device="cuda")
    with pytest.raises(DeviceError, match="is none"):
        load_prior("embedded", device="gpu")
