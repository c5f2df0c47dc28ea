"""`--ray-address` of a cluster that does not answer."""

from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra 'ray' is not installed; run: pip install -c constraints.txt -e '.[ray]'")

from worldgymnast.cli.main import main

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("ray")]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_a_cluster_that_does_not_answer_is_named_before_anything_is_read(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    words = ["rl", "debug", "--policy", "/no/policy.safetensors", "--out", str(tmp_path / "run")]
    assert main([*words, "--pool", "ray", "--ray-address", address]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    assert f"cluster {address}: does not answer" in line
    assert line.endswith("Check --ray-address and RAY_AUTH_TOKEN\n")
