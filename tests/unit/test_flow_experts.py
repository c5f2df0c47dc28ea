"""SmolVLA, pi0 and pi0.5 as policies: acting, scoring, imitation, saving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from tiny_vla import KINDS, tiny_policy, write_tokenizer
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from worldgymnast.actions import libero_spec
from worldgymnast.errors import InputError
from worldgymnast.measure.live_bytes import LiveBytes
from worldgymnast.policies.flow_chain import Method, SamplerConfig
from worldgymnast.policies.flow_expert import training_times
from worldgymnast.policies.prompts import load_tokenizer, prompt_ids, prompt_tokens
from worldgymnast.testing import check_policy, observation
from worldgymnast.types import Observation

METHODS: tuple[Method, ...] = ("flow_sde", "one_step", "flow_noise")
kinds = pytest.mark.parametrize("kind", KINDS)
methods = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def sampler(method: Method, steps: int = 4) -> SamplerConfig:
    return SamplerConfig(method=method, steps=steps)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@kinds
@methods
def test_the_contract_holds(kind: str, method: Method, tokenizer: str) -> None:
    cameras = ("front", "wrist")
    policy = tiny_policy(kind, tokenizer, sampler(method), cameras=cameras, state_dim=3, chunk=3)
    check_policy(policy, frame_size=(48, 64), state_size=3)
    check_policy(tiny_policy(kind, tokenizer, sampler(method), ratio="number"), frame_size=(32, 32))


@kinds
@methods
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ratio_is_exactly_one_before_the_first_update(
    kind: str, method: Method, dtype: torch.dtype, tokenizer: str
) -> None:
    policy = tiny_policy(kind, tokenizer, sampler(method), ratio="number", state_dim=2)
    obs = observation(policy, (48, 64), state_size=2)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        chunk = policy.act(obs, temperature=1.0, generator=generator())
        fresh = policy.logprobs(obs, chunk)
    assert fresh.requires_grad
    assert torch.equal(fresh.detach(), chunk.logprobs)
    steps = 1 if method == "one_step" else 4
    assert fresh.shape == (4, steps, 4, 7)


@kinds
def test_fixed_weights_in_half_precision_change_actions_little(kind: str, tokenizer: str) -> None:
    exact = tiny_policy(kind, tokenizer, state_dim=2)
    half = tiny_policy(kind, tokenizer, state_dim=2, fixed="bfloat16")
    dtypes = {weight.dtype for name, weight in half.named_parameters() if name.startswith(half.backbone)}
    assert dtypes == {torch.bfloat16}
    assert {weight.dtype for weight in half.parameters() if weight.requires_grad} == {torch.float32}
    obs = observation(half, (48, 64), state_size=2)
    actions = [policy.act(obs, temperature=0.0, generator=None).actions for policy in (exact, half)]
    assert 0 < float((actions[0] - actions[1]).abs().max()) < 0.05
    chunk = half.act(obs, temperature=1.0, generator=generator())
    assert torch.equal(half.logprobs(obs, chunk).detach(), chunk.logprobs)
    check_policy(half, (48, 64), state_size=2)


@kinds
def test_adapters_begin_without_effect_and_are_trained_alone_with_the_projections(kind: str, tokenizer: str) -> None:
    plain = tiny_policy(kind, tokenizer, state_dim=2)
    adapted = tiny_policy(kind, tokenizer, state_dim=2, fixed="bfloat16")
    adapted.fill({name: tensor.clone() for name, tensor in plain.state_dict().items()})
    obs = observation(plain, (48, 64), state_size=2)
    before = adapted.act(obs, temperature=0.0, generator=None).actions
    adapted.adapt(2, 4.0)
    assert adapted.config.lora_rank == 2
    assert torch.equal(adapted.act(obs, temperature=0.0, generator=None).actions, before)
    trained = {name for name in adapted.trainable_state() if ".layers." in name and "noise_net" not in name}
    assert {name.rsplit(".", 2)[1] for name in trained} == {"lora_A", "lora_B"}
    assert {name for name in trained if name.startswith(adapted.backbone)}
    assert not {name for name in trained if "vision" in name}
    assert "model.action_out_proj.weight" in adapted.trainable_state()
    check_policy(adapted, (48, 64), state_size=2)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lora_rank": 2, "trained": "all"}, "field 'lora_rank'"),
        ({"fixed": "bfloat16", "trained": "all"}, "field 'fixed'"),
        ({"chunk": 5, "horizon": 4}, "field 'chunk' of SmolVLAConfig: found 5, expected at most horizon, 4"),
        ({"shortest": 5.0}, "field 'shortest'"),
        ({"cameras": ("a", "a")}, "field 'cameras'"),
        ({"state_dim": 33}, "field 'state_dim': found 33, expected at most sizes.state, 32"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields: dict[str, Any], said: str, tokenizer: str) -> None:
    with pytest.raises(InputError, match=said):
        tiny_policy("smolvla", tokenizer, **fields)


@pytest.mark.parametrize("fields", [{"low": 0.2}, {"steps": 1}, {"noise": 0.0}, {"method": "ode"}])
def test_a_sampler_without_noise_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"field '{next(iter(fields))}' of SamplerConfig"):
        SamplerConfig(**fields)


@kinds
@methods
def test_log_probabilities_per_look_are_sums_over_executed_numbers(kind: str, method: Method, tokenizer: str) -> None:
    single = tiny_policy(kind, tokenizer, sampler(method), ratio="number", chunk=3)
    whole = tiny_policy(kind, tokenizer, sampler(method), chunk=3)
    whole.load_state_dict(single.state_dict())
    obs = observation(single, (32, 32))
    chunk = single.act(obs, temperature=0.8, generator=generator())
    assert chunk.actions.shape == (4, 3, 7)
    per_number, per_look = single.logprobs(obs, chunk), whole.logprobs(obs, chunk)
    assert per_look.shape == (4,)
    torch.testing.assert_close(per_look, per_number.sum((1, 2, 3)))


@kinds
@methods
def test_all_numbers_of_a_chain_can_count(kind: str, method: Method, tokenizer: str) -> None:
    policy = tiny_policy(kind, tokenizer, sampler(method), counted="all", chunk=3)
    obs = observation(policy, (32, 32))
    chunk = policy.act(obs, temperature=1.0, generator=generator())
    assert torch.equal(policy.logprobs(obs, chunk).detach(), chunk.logprobs)
    executed = tiny_policy(kind, tokenizer, sampler(method), chunk=3)
    executed.load_state_dict(policy.state_dict())
    others = (1 if method == "one_step" else 4) * (4 * 32 - 3 * 7)
    # The others are drawn too, so each adds about -1.42 - log(deviation), the mean log-density of a normal number.
    deviation = {"flow_sde": 0.5, "one_step": 0.5, "flow_noise": 0.12}[method]
    added = float((chunk.logprobs - executed.logprobs(obs, chunk).detach()).mean()) / others
    assert added == pytest.approx(-1.42 - np.log(deviation), abs=0.6)


@kinds
def test_recomputed_steps_give_the_same_gradient(kind: str, tokenizer: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        policy = tiny_policy(kind, tokenizer, state_dim=2, checkpointing=checkpointing)
        obs = observation(policy, (32, 32), state_size=2)
        chunk = policy.act(obs, temperature=1.0, generator=generator())
        policy.logprobs(obs, chunk).sum().backward()
        gradients.append({name: w.grad for name, w in policy.named_parameters() if w.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0]["model.action_out_proj.weight"].abs().max() > 0
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@kinds
def test_a_fixed_prefix_keeps_no_activations_for_the_gradient(kind: str, tokenizer: str) -> None:
    policy = tiny_policy(kind, tokenizer, state_dim=2)
    inputs = policy.preprocess(observation(policy, (48, 64), state_size=2))
    weights = {weight.untyped_storage().data_ptr() for weight in policy.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            saved[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        context = policy.model.context(inputs)
    cache = sum(tensor.numel() for pair in context.cache for tensor in pair)
    numbers = sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in saved.values())
    assert numbers <= (1.5 * cache if kind == "smolvla" else 0)


@kinds
def test_memory_is_planned_on_tensors_without_contents(kind: str, tokenizer: str) -> None:
    peaks = []
    for checkpointing in (False, True):
        with FakeTensorMode(allow_non_fake_inputs=True):
            sizes = {"expert_width": 512, "expert_hidden": 1024, "layers": 6}
            policy = tiny_policy(
                kind, tokenizer, sampler("flow_sde", 8), changed=sizes, state_dim=2, checkpointing=checkpointing,
                prompt_length=60,
            )  # fmt: skip
            images = {"image": torch.zeros(4, 32, 32, 3, dtype=torch.uint8)}
            obs = Observation(images, ["open the drawer"] * 4, torch.zeros(4, 2))
            chunk = policy.act(obs, temperature=1.0, generator=None)
            with LiveBytes() as memory:
                policy.logprobs(obs, chunk)
        peaks.append(memory.peak)
    assert peaks[1] < 0.5 * peaks[0]


@kinds
def test_the_prefix_is_computed_once_per_look(kind: str, tokenizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, calls = tiny_policy(kind, tokenizer), list[str]()
    for name in ("context", "hidden"):
        method = getattr(policy.model, name)
        monkeypatch.setattr(policy.model, name, lambda *a, m=method, n=name: (calls.append(n), m(*a))[1])
    obs = observation(policy, (32, 32))
    chunk = policy.act(obs, temperature=1.0, generator=generator())
    policy.logprobs(obs, chunk)
    assert calls == ["context", *["hidden"] * 4] * 2


@kinds
def test_actions_relative_to_the_state(kind: str, tokenizer: str) -> None:
    plain = tiny_policy(kind, tokenizer, state_dim=3)
    relative = tiny_policy(kind, tokenizer, state_dim=3, relative_axes=(0, 2))
    obs = observation(plain, (32, 32), state_size=3)
    chunks = [policy.act(obs, temperature=0.0, generator=None) for policy in (plain, relative)]
    added = chunks[1].actions - chunks[0].actions
    assert obs.state is not None
    torch.testing.assert_close(added[..., [0, 2]], obs.state[:, None, [0, 2]].expand(4, 4, 2))
    assert not added[..., [1, 3, 4, 5, 6]].any()
    batch = {"obs": obs, "mask": torch.ones(4, 4, dtype=torch.bool)}
    losses = [
        policy.loss(batch | {"actions": chunk.actions, "generator": generator()})[0]
        for policy, chunk in zip((plain, relative), chunks, strict=True)
    ]
    torch.testing.assert_close(losses[0], losses[1])
    with pytest.raises(InputError, match="found 3, expected indices below state_dim, 3"):
        tiny_policy(kind, tokenizer, state_dim=3, relative_axes=(3,))
    with pytest.raises(InputError, match="found 7, expected indices of the 7 action axes"):
        tiny_policy(kind, tokenizer, state_dim=9, relative_axes=(7,))


@kinds
@methods
def test_the_temperature_scales_the_noise(kind: str, method: Method, tokenizer: str) -> None:
    policy = tiny_policy(kind, tokenizer, sampler(method), ratio="number")
    obs = observation(policy, (32, 32))
    hot = policy.act(obs, temperature=1.0, generator=generator())
    cold = policy.act(obs, temperature=1e-3, generator=generator())
    # The noise of a step is divided by 1000, so its log-density is larger by log(1000).
    gain = float((cold.logprobs - hot.logprobs).mean())
    assert gain == pytest.approx(np.log(1000), abs=0.01)


@kinds
def test_greedy_actions_follow_the_flow_whatever_the_sampler(kind: str, tokenizer: str) -> None:
    found = []
    for method in METHODS:
        policy = tiny_policy(kind, tokenizer, sampler(method))
        chunk = policy.act(observation(policy, (32, 32)), temperature=0.0, generator=None)
        assert bool(torch.isfinite(chunk.logprobs).all())
        found.append(chunk.actions)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


@kinds
@pytest.mark.parametrize(("trained", "is_fixed"), [("expert", True), ("all", False)])
def test_a_policy_gradient_step_changes_what_the_config_trains(
    kind: str, trained: str, is_fixed: bool, tokenizer: str
) -> None:
    policy = tiny_policy(kind, tokenizer, trained=trained, state_dim=2)
    obs = observation(policy, (32, 32), state_size=2)
    chunk = policy.act(obs, temperature=1.0, generator=generator())
    before = {name: weight.clone() for name, weight in policy.state_dict().items()}
    optimizer = torch.optim.SGD([w for w in policy.parameters() if w.requires_grad], lr=1e-4)
    old = policy.logprobs(obs, chunk)
    (-old.mean()).backward()
    optimizer.step()
    assert float((policy.logprobs(obs, chunk) - old).detach().mean()) > 0
    changed = {name for name, weight in policy.state_dict().items() if not torch.equal(weight, before[name])}
    assert any(name.startswith(policy.backbone) for name in changed) != is_fixed
    assert {name for name in changed if not name.startswith(policy.backbone)}
    assert set(policy.trainable_state()) >= changed


@kinds
def test_the_state_changes_the_actions(kind: str, tokenizer: str) -> None:
    policy = tiny_policy(kind, tokenizer, state_dim=2)
    policy.measure_state(np.array([[0.0, 10.0], [2.0, 30.0]], np.float32))
    obs = observation(policy, (32, 32), state_size=2)
    near = replace(obs, state=torch.tensor([1.0, 20.0]).expand(4, 2))
    far = replace(obs, state=torch.tensor([1.5, 28.0]).expand(4, 2))
    assert torch.equal(policy.preprocess(near).state, torch.zeros(4, 32))
    actions = [policy.act(each, temperature=0.0, generator=None).actions for each in (near, far)]
    assert float((actions[0] - actions[1]).abs().max()) > 1e-4
    with pytest.raises(InputError, match="needs a state of 2 numbers, found none"):
        policy.act(replace(obs, state=None), temperature=0.0, generator=None)


def test_training_times_have_the_published_distribution() -> None:
    found = (training_times(20_000, generator()) - 0.001) / 0.999
    assert stats.kstest(found.numpy(), stats.beta(1.5, 1).cdf).pvalue > 0.01


@kinds
def test_imitation_learns_what_is_shown(kind: str, tokenizer: str) -> None:
    torch.manual_seed(0)
    changed = {"action": 8, "expert_width": 48, "expert_hidden": 96}
    policy = tiny_policy(
        kind, tokenizer, SamplerConfig(steps=10), libero_spec(1), changed, trained="all", prompt_length=20
    )
    shown = torch.linspace(-0.6, 0.6, 28).reshape(1, 4, 7).repeat(8, 1, 1)
    images = torch.zeros(8, 32, 32, 3, dtype=torch.uint8)
    optimizer, rng = torch.optim.Adam(policy.parameters(), 3e-3), generator()
    obs, mask = Observation.of(images, ["open the drawer"] * 8), torch.ones(8, 4, dtype=torch.bool)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss, _metrics = policy.loss({"obs": obs, "actions": shown, "mask": mask, "generator": rng})
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])
    greedy = policy.act(obs.rows(torch.tensor([0])), temperature=0.0, generator=None).actions
    assert float((greedy - shown[:1]).abs().mean()) < 0.2


@kinds
def test_actions_after_the_end_of_an_episode_do_not_count(kind: str, tokenizer: str) -> None:
    policy = tiny_policy(kind, tokenizer)
    obs, mask = observation(policy, (32, 32)), torch.tensor([True, True, False, False]).expand(4, 4)
    actions = torch.rand(4, 4, 7, generator=generator())

    def gradient(batch: dict[str, Any]) -> Tensor:
        policy.zero_grad()
        policy.loss(batch | {"obs": obs, "generator": generator()})[0].backward()
        return policy.model.action_out_proj.weight.grad.clone()

    whole = gradient({"actions": actions, "mask": mask})
    assert not torch.equal(whole, gradient({"actions": actions, "mask": torch.ones_like(mask)}))
    short = gradient({"actions": actions[:, :2], "mask": mask[:, :2]})
    ended = gradient({"actions": F.pad(actions[:, :2], (0, 0, 0, 2)), "mask": mask})
    torch.testing.assert_close(short, ended)


# ---------------------------------------------------------------- prompts


def text(tokenizer: str, ids: list[int]) -> str:
    return "".join(load_tokenizer(tokenizer).id_to_token(i) or "" for i in ids)


def test_prompts_have_the_published_formats(tokenizer: str) -> None:
    read = load_tokenizer(tokenizer)
    assert text(tokenizer, prompt_ids(read, "smolvla", "open it")) == "open it\n"
    assert text(tokenizer, prompt_ids(read, "smolvla", "open it\n")) == "open it\n"
    assert text(tokenizer, prompt_ids(read, "pi0", " open_it\nnow ")) == "<bos>open it now\n"
    state = np.array([-1.0, 0.0, 0.999, 1.5, -1.1], np.float32)
    wanted = "<bos>Task: open it, State: 0 128 255 255 -1;\nAction: "
    assert text(tokenizer, prompt_ids(read, "pi05", "open_it", state)) == wanted
    assert text(tokenizer, prompt_ids(read, "pi05", "open it")) == "<bos>open it\n"


def test_prompts_are_padded_to_one_length(tokenizer: str) -> None:
    tokens, mask = prompt_tokens(load_tokenizer(tokenizer), "smolvla", ["open", "open it"], 10)
    assert mask.sum(1).tolist() == [5, 8]
    assert not tokens[~mask].any()
    with pytest.raises(InputError, match="has 8 tokens, but the policy reads 7"):
        prompt_tokens(load_tokenizer(tokenizer), "smolvla", ["open it"], 7)


def test_a_missing_tokenizer_is_one_line(tmp_path: Path) -> None:
    for source, said in (("", "names no tokenizer"), (str(tmp_path), "no tokenizer can be loaded")):
        with pytest.raises(InputError, match=said) as caught:
            load_tokenizer(source)
        assert "\n" not in str(caught.value)
