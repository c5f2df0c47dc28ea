"""Published checkpoints: what stands in a file's place, what the weights do not tell, and how the window slides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_diffusion import GRID, HEADS, MAX_FRAMES, A, world

from worldgymnast.actions import WORLDGYM
from worldgymnast.cli.main import main
from worldgymnast.errors import InputError
from worldgymnast.hub import hub_reason
from worldgymnast.registry import load_world
from worldgymnast.worldmodel.published import read_checkpoint
from worldgymnast.worldmodel.sampler import LatentWorldModel
from worldgymnast.worldmodel.vae import ImageVAE


def imported(tmp_path: Path, name: str, *flags: str) -> tuple[int, LatentWorldModel | None]:
    """The exit code of import-world for a checkpoint of that name, and the world model it wrote."""
    made = world()
    torch.save({"ema": made.transformer.state_dict()}, tmp_path / name)
    made.autoencoder.kl.save_pretrained(tmp_path / "vae")
    out = tmp_path / f"{name}.safetensors"
    words = [str(tmp_path / name), "--vae", str(tmp_path / "vae"), "--window", str(MAX_FRAMES), "--heads", str(HEADS)]
    code = main(["import-world", *words, "--size", "16", "16", "--out", str(out), *flags])
    read = load_world(out) if out.exists() else None
    assert read is None or isinstance(read, LatentWorldModel)
    return code, read


@pytest.mark.parametrize(
    ("name", "flags", "rotary", "guidance", "said"),
    [
        (
            "bridge_v2_ckpt.pt",
            [],
            "pixel",
            1.0,
            ["--rotary pixel (from the file", "--guidance 1 (from the file"],
        ),
        ("mixed_openx_20f_0p1actiondropout.pt", [], "standard", 3.0, ["--guidance 3 (from the file"]),
        ("mine.pt", [], "standard", 1.0, ["--rotary standard (a guess", "--guidance 1 (a guess"]),
        ("bridge_v2_ckpt.pt", ["--guidance", "2", "--rotary", "standard"], "standard", 2.0, ["--guidance 2 (given)"]),
    ],
)
def test_what_the_weights_do_not_tell_is_printed_with_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, flags: list[str], rotary: str, guidance: float,
    said: list[str],
) -> None:  # fmt: skip
    code, read = imported(tmp_path, name, *flags)
    assert code == 0
    assert read is not None
    assert (read.config.transformer.rotary, read.config.guidance) == (rotary, guidance)
    printed = capsys.readouterr().err
    assert all(words in printed for words in said), printed


def _legacy(path: Path) -> None:
    torch.save({"x_proj.weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


def _cut(path: Path) -> None:
    torch.save({"x_proj.weight": torch.zeros(2000)}, path)
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_text("<!DOCTYPE html><html>sign in</html>"), "is a web page"),
        (lambda path: path.write_text("\n <html>"), "is a web page"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "is a safetensors file"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_bytes(b"\x00\x01junk"), "not a checkpoint that torch can read"),
        (_cut, "not a checkpoint that torch can read"),
        (lambda path: torch.save({}, path), "no dict of tensors"),
        (lambda path: torch.save({"ema": {}, "model": {}}, path), "no dict of tensors"),
        (lambda path: torch.save({"a": torch.tensor([float("nan")])}, path), "'a' holds NaN"),
        (lambda path: torch.save({"a": torch.tensor([1])}, path), "expected finite floats"),
        (lambda path: torch.save({"a": Path("x")}, path), "pickled code"),
        (lambda path: path.mkdir(), "found no file"),
    ],
)
def test_what_stands_in_the_place_of_a_checkpoint_is_named(
    tmp_path: Path, write: Callable[[Path], object], said: str
) -> None:
    write(tmp_path / "bridge.pt")
    with pytest.raises(InputError) as error:
        read_checkpoint(tmp_path / "bridge.pt")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_before_torch_1_6_is_read(tmp_path: Path) -> None:
    _legacy(tmp_path / "old.pt")
    assert read_checkpoint(tmp_path / "old.pt")["x_proj.weight"].tolist() == [0, 0]


ODD: dict[str, Callable[[], torch.Tensor]] = {
    "repeats": lambda: torch.zeros(1).expand(10**9),
    "repeats by strides": lambda: torch.zeros(10).as_strided((10**5, 10**5), (0, 0)),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "meta": lambda: torch.zeros(3, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    "eight bits": lambda: torch.ones(3).to(torch.float8_e4m3fn),
    "whole numbers": lambda: torch.ones(3, dtype=torch.int64),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_a_tensor_without_floats_of_its_own_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": {"a": ODD[kind]()}}, tmp_path / "c.pt")
    words = ["import-world", str(tmp_path / "c.pt"), "--vae", str(tmp_path), "--out", str(tmp_path / "w.safetensors")]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"worldgymnast: error: {tmp_path / 'c.pt'}: ")
    assert "expected" in line


def test_many_views_of_one_storage_are_no_checkpoint(tmp_path: Path) -> None:
    shared = torch.zeros(10_000)
    torch.save({f"t{n}": shared[:] for n in range(100)}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="a view that repeats numbers"):
        read_checkpoint(tmp_path / "c.pt")


def test_an_empty_ema_gives_way_to_the_model(tmp_path: Path) -> None:
    torch.save({"ema": {}, "model": {"_orig_mod.x": torch.ones(1)}, "step": 3}, tmp_path / "a.pt")
    assert list(read_checkpoint(tmp_path / "a.pt")) == ["x"]


def test_tensors_that_do_not_fit_are_named_a_few_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = world().transformer.state_dict()
    torch.save(
        {k: v for k, v in made.items() if "blocks" not in k} | {"blocks.999999999.x": torch.zeros(1)}, tmp_path / "b.pt"
    )
    world().autoencoder.kl.save_pretrained(tmp_path / "vae")
    words = [str(tmp_path / "b.pt"), "--vae", str(tmp_path / "vae"), "--size", "16", "16", "--heads", str(HEADS)]
    assert main(["import-world", *words, "--out", str(tmp_path / "o.safetensors")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "keys do not fit" in said
    assert "more" in said
    assert len(said) < 600


class _Hub(OSError):
    """An error of a hub's library, by the name of its class."""


def _named(name: str, text: str = "said") -> BaseException:
    return type(name, (_Hub,), {})(text)


def _wrapped(inner: BaseException) -> BaseException:
    outer = OSError("org/model does not appear to have a file named config.json.")
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (_named("GatedRepoError"), "accept it at https://huggingface.co/org/model and set HF_TOKEN"),
        (_named("RepositoryNotFoundError"), "no such model, or it is private"),
        (_named("ConnectError", "Name or service not known"), "does not appear"),
        (_named("NetworkError", "Name or service not known"), "cannot be reached (Name or service not known)"),
        (_named("OfflineModeIsEnabled"), "HF_HUB_OFFLINE"),
        (_named("HFValidationError", "Use `repo_type` argument if needed"), "no name on the hub, which has the form"),
    ],
)
def test_the_reason_under_a_hub_error_is_said(inner: BaseException, said: str) -> None:
    assert said in hub_reason(_wrapped(inner), "org/model")


@pytest.mark.parametrize(("name", "said"), [("./nowhere", "no such folder"), ("/a/b/c", "no such folder")])
def test_a_vae_folder_that_is_not_there_asks_no_hub(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ImageVAE.pretrained(name)


class _Counted(torch.nn.Module):
    """A transformer that notes how many frames each of its passes had."""

    def __init__(self, inner: Any):
        super().__init__()
        self.inner, self.passes = inner, []

    def hidden(self, noisy: torch.Tensor, *rest: Any, **named: Any) -> Any:
        self.passes.append(noisy.shape[1])
        return self.inner.hidden(noisy, *rest, **named)

    def predict(self, *hidden: Any) -> Any:
        return self.inner.predict(*hidden)


def _rollout(made: LatentWorldModel, frames: int) -> tuple[torch.Tensor, list[list[int]]]:
    """The latents of a rollout, and the frames in each pass of each of its frames."""
    first = torch.randn(1, *GRID, made.config.transformer.channels, generator=torch.Generator().manual_seed(1))
    actions = torch.rand(1, frames, A, generator=torch.Generator().manual_seed(2)) * 2 - 1
    counted = _Counted(made.transformer)
    made.transformer = counted  # type: ignore[assignment]
    state, generator, latents, passes = made.start_latent(first), torch.Generator().manual_seed(3), [], []
    for t in range(frames):
        counted.passes.clear()
        state, latent = made.imagine(state, actions[:, t : t + 1], generator=generator)
        latents.append(latent)
        passes.append(list(counted.passes))
    made.transformer = counted.inner
    return torch.cat(latents, 1), passes


@torch.no_grad()
def test_no_pass_over_the_network_is_thrown_away() -> None:
    """A clean frame joins the first pass of the next frame; in a full window that pass has all of its frames."""
    steps = world().config.steps
    _, passes = _rollout(world(), MAX_FRAMES + 3)
    assert passes[0] == passes[MAX_FRAMES - 2] == [2] + [1] * (steps - 1)
    assert all(each == [MAX_FRAMES] + [1] * (steps - 1) for each in passes[MAX_FRAMES - 1 :])


@torch.no_grad()
def test_frames_that_leave_together_are_paid_for_once() -> None:
    made = world(hop=2)
    plain = LatentWorldModel(replace(made.config, cached=False), WORLDGYM, 5.0).eval()
    plain.load_state_dict(made.state_dict())
    ours, passes = _rollout(made, MAX_FRAMES + 5)
    reference, _ = _rollout(plain, MAX_FRAMES + 5)
    assert (ours - reference).abs().max() < 1e-4 * reference.abs().max()
    full = [each[0] for each in passes[MAX_FRAMES - 1 :]]
    assert full[:4] == [MAX_FRAMES - 1, 2, MAX_FRAMES - 1, 2]


def test_a_hop_leaves_a_frame_in_the_window() -> None:
    with pytest.raises(InputError, match="hop"):
        world(hop=MAX_FRAMES)
