"""`spikeleak audit` on models not written for it: figures, files, and one clear line for whatever cannot be used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from attack.methods.ratio import Ratio
from contract.datasets import load
from contract.encodings import encode
from contract.errors import ConfigurationError
from contract.task import EncodingSpec
from deploy.audit.console import show
from deploy.audit.procedure import audit
from deploy.audit.request import AuditRequest, check
from tests import audited_models
from tests.conftest import ROOT, spikeleak

MODELS = ROOT / "tests" / "audited_models.py"
SHAPE = (1, 8, 8)


class Captured:
    """A client of somebody's own: weights, update, weights after, truth."""

    def __init__(
        self, folder: Path, model: str, kind="direct", *, batch=1, steps=6, local=1, lr=None, span=(0, 1), data="digits"
    ):
        self.folder, self.model, self.kind, self.batch, self.steps, self.local = (
            folder,
            model,
            kind,
            batch,
            steps,
            local,
        )
        self.lr, self.span = lr, span
        torch.manual_seed(2)
        self.module = getattr(audited_models, model)()
        self.weights = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        known, rng = load(data), np.random.default_rng(3)
        chosen = rng.permutation(len(known.x))[: batch * local]
        self.x, self.y = np.array(known.x[chosen]), np.array(known.y[chosen])
        optimiser = torch.optim.SGD(self.module.parameters(), lr=lr or 0.1)
        self.frames = []
        for step in range(local):
            part = slice(step * batch, (step + 1) * batch)
            frames = encode(EncodingSpec(kind=kind, steps=steps), self.x[part], rng)
            frames = np.broadcast_to(frames, (steps, *frames.shape[1:]))
            self.frames.append(np.moveaxis(frames, 1, 0))
            seen = torch.tensor(span[0] + (span[1] - span[0]) * frames, dtype=torch.float32)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(self.module(seen), torch.tensor(self.y[part])).backward()
            self.update = {name: p.grad.clone() for name, p in self.module.named_parameters()}
            optimiser.step()
        self.after = {name: p.detach().clone() for name, p in self.module.named_parameters()}

    def request(self, **changes) -> AuditRequest:
        save_file(self.weights, self.folder / "w.safetensors")
        np.savez(self.folder / "x.npz", x=self.x, y=self.y, frames=np.concatenate(self.frames))
        if self.lr is None:
            save_file(self.update, self.folder / "u.safetensors")
            given = {"update": self.folder / "u.safetensors"}
        else:
            save_file(self.after, self.folder / "a.safetensors")
            given = {"weights_after": self.folder / "a.safetensors", "local_steps": self.local}
        options = {
            "model": f"{MODELS}:{self.model}",
            "weights": self.folder / "w.safetensors",
            "input_shape": self.x.shape[1:],
            "encoding": self.kind,
            "steps": self.steps,
            "batch_size": self.batch,
            "learning_rate": self.lr,
            "truth": self.folder / "x.npz",
            "input_range": self.span,
            "budget_s": 4.0,
            "control": False,
            "out": self.folder / "out",
            **given,
        }
        return AuditRequest(**{**options, **changes})


def document(folder: Path) -> dict:
    return json.loads((folder / "out" / "audit.json").read_text())


def entry(report: dict, attack: str) -> dict:
    return next(e for e in report["attacks"] if e["attack"] == attack)


def test_the_command_writes_its_three_files_for_a_step_loop(tmp_path):
    captured = Captured(tmp_path, "StepLoop")
    captured.request()
    files = {name: str(tmp_path / name) for name in ("w.safetensors", "u.safetensors", "x.npz", "out")}
    done = spikeleak(
        *("audit", "--model", f"{MODELS}:StepLoop", "--weights", files["w.safetensors"], "--steps", "6"),
        *("--update", files["u.safetensors"], "--input-shape", "1,8,8", "--encoding", "direct"),
        *("--truth", files["x.npz"], "--out", files["out"], "--budget", "8"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exact by ratio" in done.stdout
    report = document(tmp_path)
    assert report["verdict"] == "exact"
    found = entry(report, "ratio")
    assert found["score"]["psnr_db"][0] >= 100
    assert found["certificate"]
    assert found["seconds"] < 0.5
    control = report["controls"]["noise"]
    assert control["passed"]
    assert control["certified"] == []
    assert control["attacks"] >= 5
    assert 0 < control["best_psnr_db"] < 25
    arrays = np.load(tmp_path / "out" / "recon.npz")
    np.testing.assert_allclose(arrays["recon"], captured.x, atol=1e-5)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "exact" in page
    assert "Noise control passed" in page
    assert f"reached {control['best_psnr_db']:.1f} dB against the truth" in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_certificate_on_noise_is_told_loudly(tmp_path, monkeypatch):
    class Gullible(Ratio):
        def run(self, observation, budget_s, rng):
            return msgspec.structs.replace(super().run(observation, budget_s, rng), verdict="exact")

    monkeypatch.setattr("deploy.audit.procedure.METHODS", {"ratio": Gullible()})
    audit(Captured(tmp_path, "StepLoop").request(control=True))
    assert document(tmp_path)["controls"]["noise"]["certified"] == ["ratio"]
    assert "Noise control FAILED" in (tmp_path / "out" / "report.html").read_text()


def test_the_step_loop_is_understood(tmp_path):
    result = audit(Captured(tmp_path, "StepLoop").request())
    report = document(tmp_path)["module"]
    assert report["expressed"]
    assert (report["first_layer"], report["readout"]) == ("fc1.weight", "fc2.weight")
    assert report["neuron"]["beta"] == pytest.approx(0.85)
    assert report["neuron"]["threshold"] == pytest.approx(0.9)
    assert (report["neuron"]["surrogate"], report["neuron"]["surrogate_slope"]) == ("fast_sigmoid", 20.0)
    assert report["network"]["readout"] == "membrane"
    assert result.subject.expression.factor == pytest.approx(6.0)  # summed over T = 6, not averaged


def test_spikes_of_a_batch_are_found_with_order_and_labels(tmp_path):
    captured = Captured(tmp_path, "StepLoop", "rate", batch=2, steps=6)
    audit(captured.request())
    report = document(tmp_path)
    assert report["verdict"] == "exact"
    assert report["chosen"] in {"row_space_enumeration", "frame_lp"}
    score = entry(report, report["chosen"])["score"]
    assert score["frames_exact"] == 1.0
    assert score["labels_right"] == 2
    arrays = np.load(tmp_path / "out" / "recon.npz")
    assert arrays["frames"].shape == (2, 6, *SHAPE)
    np.testing.assert_array_equal(arrays["frames"][score["candidate"]], np.concatenate(captured.frames))


def test_a_convolution_first_is_understood_and_attacked(tmp_path):
    audit(Captured(tmp_path, "ConvNet").request(budget_s=4.0))
    report = document(tmp_path)
    assert report["module"]["expressed"]
    assert report["module"]["network"]["kind"] == "conv"
    assert report["module"]["network"]["readout"] == "spike"
    assert entry(report, "ratio")["verdict"] == "refused"
    assert report["verdict"] in {"exact", "recovered", "partial"}
    assert np.load(tmp_path / "out" / "recon.npz")["recon"].shape == (1, *SHAPE)


def test_a_module_unlike_any_of_ours_is_simulated_as_it_is(tmp_path):
    audit(Captured(tmp_path, "PooledConvNet").request(budget_s=4.0))
    report = document(tmp_path)
    assert not report["module"]["expressed"]
    assert report["module"]["reason"]
    assert report["module"]["first_layer"] == "conv.weight"
    assert entry(report, "frame_lp")["verdict"] == "refused"
    assert entry(report, "label")["verdict"] == "recovered"
    assert entry(report, "cosine")["verdict"] == "partial"
    assert entry(report, "cosine")["gradient_residual"] is not None


def test_the_closed_form_needs_no_understanding(tmp_path):
    audit(Captured(tmp_path, "LastStep").request())
    report = document(tmp_path)
    assert not report["module"]["expressed"]
    assert entry(report, "ratio")["verdict"] == "exact"  # certified by the module's own simulation
    assert entry(report, "ratio")["score"]["psnr_db"][0] >= 100


def test_a_direct_batch_of_a_module_simulated_as_it_is(tmp_path):
    audit(Captured(tmp_path, "LastStep", batch=4).request())
    score = entry(document(tmp_path), document(tmp_path)["chosen"])["score"]
    assert min(score["psnr_db"]) >= 100


def test_an_artificial_network_is_said_to_ignore_time(tmp_path):
    audit(Captured(tmp_path, "Perceptron").request())
    report = document(tmp_path)
    assert report["module"]["network"]["family"] == "ann"
    assert any("ignores T" in note for note in report["module"]["notes"])
    assert entry(report, "ratio")["score"]["psnr_db"][0] >= 100


def test_an_artificial_network_that_averages_spikes_gives_their_mean_away(tmp_path):
    captured = Captured(tmp_path, "Perceptron", "rate")
    audit(captured.request())
    recon = np.load(tmp_path / "out" / "recon.npz")["recon"]
    np.testing.assert_allclose(recon[0], captured.frames[0][0].mean(0), atol=1e-5)


def test_bare_parameters_and_a_surrogate_that_leaves_the_graph(tmp_path):
    audit(Captured(tmp_path, "Bare").request())
    report = document(tmp_path)
    assert report["module"]["first_layer"] == "w"
    assert report["module"]["readout"] == "v"
    assert entry(report, "ratio")["score"]["psnr_db"][0] >= 100
    audit(Captured(tmp_path, "Bare", "rate", steps=4).request(exhaustive=True))
    reason = entry(document(tmp_path), "dlg")["reason"]
    assert "differentiated again" in reason


def test_a_normalised_input_is_given_back_in_its_own_units(tmp_path):
    audit(Captured(tmp_path, "StepLoop", span=(-0.4242, 2.8215)).request())
    report = document(tmp_path)
    assert report["verdict"] == "exact"
    assert entry(report, "ratio")["score"]["psnr_db"][0] >= 90


def test_weight_differences_of_several_local_steps(tmp_path):
    captured = Captured(tmp_path, "wide", "rate", local=3, steps=8, lr=0.02, data="mnist5k")
    audit(captured.request(budget_s=20.0))
    report = document(tmp_path)
    assert report["update"] == {**report["update"], "algorithm": "fedavg", "samples": 3}
    assert (report["verdict"], report["chosen"]) == ("exact", "frame_lp")
    assert entry(report, "frame_lp")["score"]["frames_exact"] == 1.0


def test_one_local_step_is_a_gradient(tmp_path):
    audit(Captured(tmp_path, "StepLoop", lr=0.5).request())
    report = document(tmp_path)
    assert report["update"]["algorithm"] == "fedsgd"
    assert entry(report, "ratio")["score"]["psnr_db"][0] >= 80


def test_quantised_updates_are_read_with_their_codec(tmp_path):
    captured = Captured(tmp_path, "StepLoop")
    for name, tensor in captured.update.items():
        step = tensor.abs().max() / 127
        captured.update[name] = torch.floor(tensor / step + torch.rand(tensor.shape)).clamp(-127, 127) * step
    result = audit(captured.request(codec="int8"))
    record = result.subject.observation.records["layers.0.weight"]
    assert record.scale == pytest.approx(float(captured.update["fc1.weight"].abs().max()) / 127)
    assert entry(document(tmp_path), "ratio")["score"]["psnr_db"][0] >= 40


def test_without_truth_there_is_no_score_and_the_same_reconstruction(tmp_path):
    captured = Captured(tmp_path, "StepLoop")
    audit(captured.request())
    with_truth = np.load(tmp_path / "out" / "recon.npz")["recon"]
    audit(captured.request(truth=None))
    assert all(e["score"] is None for e in document(tmp_path)["attacks"])
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "recon.npz")["recon"], with_truth)


def test_a_strangers_gradient_is_not_certified(tmp_path):
    """Negative control: the update of another model, under this model's names."""
    captured = Captured(tmp_path, "StepLoop", "rate", batch=2)
    captured.update = {name: torch.randn(t.shape) * t.std() for name, t in captured.update.items()}
    assert audit(captured.request(budget_s=4.0)).outcome.verdict != "exact"


class FlowerClient:
    """What a Flower NumPyClient is to its server."""

    def __init__(self, net: torch.nn.Module, x: np.ndarray, y: np.ndarray, *, steps: int):
        self.net, self.frames, self.labels = net, torch.tensor(x).expand(steps, *x.shape), torch.tensor(y)

    def get_parameters(self, config):  # noqa: ARG002 - Flower's signature
        return [value.cpu().numpy() for value in self.net.state_dict().values()]

    def fit(self, parameters, config):  # noqa: ARG002
        optimiser = torch.optim.SGD(self.net.parameters(), lr=0.1)
        torch.nn.functional.cross_entropy(self.net(self.frames), self.labels).backward()
        optimiser.step()
        return self.get_parameters(config), len(self.labels), {}


def test_the_readmes_flower_example(tmp_path, monkeypatch):
    captured = Captured(tmp_path, "StepLoop")
    request = captured.request()
    net = audited_models.StepLoop()
    net.load_state_dict(captured.weights, strict=False)
    client = FlowerClient(net, captured.x, captured.y, steps=6)
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {"net": net, "client": client})
    (command,) = re.findall(r"`spikeleak audit (--model [^`]* --out runs/audit)`", readme.replace("\n", " "))
    options = set(re.findall(r"--[a-z-]+", command))
    assert options <= set(re.findall(r"--[a-z-]+", spikeleak("audit", "--help").stdout))
    files = {"weights": tmp_path / "before.safetensors", "weights_after": tmp_path / "after.safetensors"}
    changes = {name: path for name, path in files.items() if path.name in command}
    audit(msgspec.structs.replace(request, update=None, learning_rate=0.1, **changes))
    assert entry(document(tmp_path), "ratio")["score"]["psnr_db"][0] >= 80


# --- errors: exit status 2, one line, value, limit, remedy ------------------------------------------------------------


def spoilt_update(captured: Captured, case: str) -> None:
    def transposed(u):
        u["fc1.weight"] = u["fc1.weight"].T.contiguous()

    def lacking(u):
        del u["fc2.bias"]

    def extra(u):
        u["head.weight"] = torch.zeros(3)

    def nan(u):
        u["fc1.weight"][3, 4] = float("nan")

    def zero(u):
        for tensor in u.values():
            tensor.zero_()

    def integer(u):
        u["fc1.weight"] = u["fc1.weight"].to(torch.int8)

    {"shape": transposed, "lacking": lacking, "extra": extra, "nan": nan, "zero": zero, "integer": integer}[case](
        captured.update
    )


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("shape", ("fc1.weight", "[64, 48]", "[48, 64]", "FACTORY")),
        ("lacking", ("'fc2.bias' missing", "named_parameters()")),
        ("extra", ("'head.weight'", "not in the module")),
        ("nan", ("1 of 3072 values of 'fc1.weight'", "limit 0", "training")),
        ("zero", ("every value is 0", "capture")),
        ("integer", ("int8", "floating-point")),
    ],
)
def test_updates_that_do_not_fit(tmp_path, case, words):
    captured = Captured(tmp_path, "StepLoop")
    spoilt_update(captured, case)
    with pytest.raises(ConfigurationError) as caught:
        audit(captured.request())
    message = str(caught.value)
    assert message.startswith(f"--update {tmp_path}")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("StepLop", ("has no 'StepLop'", "did you mean 'StepLoop'?")),
        ("A_NUMBER", ("is a int, not a callable",)),
        ("not_a_module", ("gave a dict", "torch.nn.Module")),
        ("broken", ("broken() raised KeyError",)),
        ("Recording", ("returns a tuple", "[1, classes]", "wrap it")),
        ("Forgetful", ("second call", "limit 1e-05", "reset neuron states")),
        ("ConvNet", ("not in the module", "lacks")),
    ],
)
def test_models_that_cannot_be_used(tmp_path, model, words):
    captured = Captured(tmp_path, "StepLoop")
    if model in {"Recording", "Forgetful"}:
        captured.weights = captured.update = {"fc.weight": torch.ones(10, 64), "fc.bias": torch.ones(10)}
    with pytest.raises(ConfigurationError) as caught:
        audit(captured.request(model=f"{MODELS}:{model}"))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "net.py"}, ("FILE.py:FACTORY",)),
        ({"model": "/nowhere/net.py:make"}, ("no file /nowhere/net.py",)),
        ({"steps": 0}, ("--steps 0", "1…1000")),
        ({"batch_size": 0}, ("--batch-size 0", "at least 1")),
        ({"encoding": "delta"}, ("--encoding delta", "direct, rate, latency, events")),
        ({"codec": "zip"}, ("--codec zip", "fp32")),
        ({"labels": (1, 2)}, ("names 2 labels", "1 samples")),
        ({"labels": (12,)}, ("--label 12", "0…9")),
        ({"local_steps": 3}, ("--local-steps 3 with --update", "--weights-after")),
        ({"update": None}, ("exactly one",)),
        ({"budget_s": 0.0}, ("--budget 0",)),
        ({"input_range": (1.0, 0.0)}, ("--input-range 1,0", "below")),
        ({"input_shape": (0, 8)}, ("--input-shape 0,8",)),
        ({"input_shape": (1, 9, 9), "truth": None}, ("fails on frames [6, 1, 1, 9, 9]", "--input-shape")),
        ({"weights": Path("none.safetensors")}, ("--weights none.safetensors", "no such file")),
        ({"weights": MODELS}, ("not a safetensors file", "pickled")),
        ({"truth": MODELS}, ("--truth", "npz")),
    ],
)
def test_options_that_cannot_be_used(tmp_path, changes, words):
    request = Captured(tmp_path, "StepLoop").request(**changes)
    with pytest.raises(ConfigurationError) as caught:
        audit(request)
    for word in words:
        assert word in str(caught.value)


def test_weight_differences_need_a_learning_rate(tmp_path):
    request = Captured(tmp_path, "StepLoop", lr=0.1).request(learning_rate=None)
    with pytest.raises(ConfigurationError, match=r"--lr None with --weights-after: .* above 0"):
        check(request)


def test_the_command_line_turns_them_into_one_line_and_status_2(tmp_path):
    done = spikeleak(
        *("audit", "--model", f"{MODELS}:StepLoop", "--weights", "none.safetensors", "--update", "u", "--steps", "4"),
        *("--input-shape", "1,8,x", "--encoding", "direct", "--out", str(tmp_path / "out")),
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: --input-shape 1,8,x: whole numbers separated by commas are expected"


def test_what_the_console_says(tmp_path, capsys):
    show(Captured(tmp_path, "Perceptron").request())
    said = capsys.readouterr().out
    assert "first layer 'layers.1.weight' (fully connected)" in said
    assert "note: the module ignores T" in said
