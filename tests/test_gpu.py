"""The checks of scripts/gpu_check.sh that need a GPU, one by one."""
import pytest

from benchmarks.gpu_checks import CHECKS


@pytest.mark.gpu
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_on_a_gpu(check, tmp_path):
    check(tmp_path)
