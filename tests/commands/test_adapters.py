"""`python -m sia_runner adapters`: what a run has trained can be listed, shown, loaded, merged and taken away."""

import base64
import json
import re
import shutil
import threading
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="adapters are tensors")
pytest.importorskip("peft", reason="adapters are PEFT's")

from sia_runner.__main__ import main
from sia_runner.config.training import LoraSettings
from sia_runner.policy.base_model import weights_sha256
from sia_runner.policy.lora import TRAINED_ADAPTER, attached_adapter
from sia_runner.store.journal import Journal
from sia_runner.store.run_directory import tree_sha256
from sia_runner.wire.adapter_files import AdapterOrigin, adapter_sha256, read_adapter_origin, write_adapter
from tests.training import toy

LORA = LoraSettings(rank=4, alpha=8, save=["embed_tokens", "lm_head"])
IDS = torch.tensor([toy.prompt_of("q1"), toy.prompt_of("q2")])


def save_base(folder: Path, seed: int) -> Path:
    toy.small_model(seed).save_pretrained(folder)
    tokenizer = toy.small_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(out: Path, base: Path, seed: int, base_id: str) -> torch.Tensor:
    """As training leaves one; its logits."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base).eval()
    policy = toy.ToyPolicy(model, toy.small_tokenizer(), base_id, weights_sha256(base))
    with attached_adapter(policy, LORA, None, seed) as peft, torch.no_grad():
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
        figures = {"data_sha256": "d" * 64, "algorithm": "grpo", "steps": 7, "seed": 3, "kl": 0.5, "reward": 0.25}
        origin = AdapterOrigin(base_id, policy.base_sha256, LORA.model_dump(), **figures, parent=None)
        write_adapter(peft, TRAINED_ADAPTER, out, asdict(origin))
        return peft(input_ids=IDS).logits


@dataclass
class Made:
    run: Path
    base: Path
    other: Path
    logits: torch.Tensor

    @property
    def adapter(self) -> Path:
        return self.run / "gen_2" / "adapter"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory) -> Made:
    """A run of three generations: a harness, an accepted update, and one that was rejected."""
    folder = tmp_path_factory.mktemp("adapters")
    base, other = save_base(folder / "base", 1), save_base(folder / "other", 2)
    logits = save_adapter(folder / "run" / "gen_2" / "adapter", base, 1, str(base))
    save_adapter(folder / "run" / "gen_3" / "adapter", base, 2, str(base))
    write_journal(folder / "run", {1: ("harness", "accepted"), 2: ("weights", "accepted"), 3: ("weights", "rejected")})
    return Made(folder / "run", base, other, logits)


@pytest.fixture
def made(made_once, tmp_path) -> Made:
    """A copy of its run to do something to."""
    shutil.copytree(made_once.run, tmp_path / "run")
    return Made(tmp_path / "run", made_once.base, made_once.other, made_once.logits)


def write_journal(run: Path, generations: dict[int, tuple[str, str]]) -> None:
    journal = Journal(run / "journal.jsonl")
    for n, (lever, status) in generations.items():
        adapter = run / f"gen_{n}" / "adapter"
        sha256 = tree_sha256(adapter) if adapter.is_dir() else None
        for step, result in {
            "propose": {"lever": lever, "title": "a title", "notes": {}},
            "build": {"fault": "", "adapter_sha256": sha256},
            "verify": {"val": {"value": 0.5, "ci95": [0.4, 0.6], "n": 100}},
            "accept": {"status": status, "reason": "why"},
        }.items():
            journal.once(f"gen_{n}/{step}", lambda result=result: result)
    journal.close()


def refused(capsys, *args) -> str:
    """The one line of a refusal."""
    assert main(["adapters", *map(str, args)]) == 2
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert output.out == ""
    return line


def test_a_run_lists_what_it_trained(made, capsys):
    assert main(["adapters", str(made.run)]) == 0
    head, second, third, best = capsys.readouterr().out.splitlines()
    assert head.split()[:6] == ["gen", "status", "algorithm", "steps", "reward", "KL"]
    assert second.split()[:6] == ["2", "accepted", "grpo", "7", "0.250", "0.500"]
    assert third.split()[:2] == ["3", "rejected"] and second.split()[-1] != third.split()[-1]
    assert weights_sha256(made.base)[:12] in second and adapter_sha256(made.adapter)[:12] in second
    assert best == "best: gen_2/adapter"


def test_an_inherited_adapter_is_not_listed_as_another_one(made, capsys):
    (made.run / "gen_1" / "adapter").parent.mkdir(exist_ok=True)
    (made.run / "gen_1" / "adapter").symlink_to("../gen_2/adapter")
    assert main(["adapters", str(made.run)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_an_adapter_says_where_it_comes_from(made, capsys):
    assert main(["adapters", "show", str(made.adapter)]) == 0
    origin = json.loads(capsys.readouterr().out)
    assert (origin["base_id"], origin["base_sha256"]) == (str(made.base), weights_sha256(made.base))
    assert (origin["algorithm"], origin["steps"], origin["seed"], origin["kl"], origin["reward"]) == (
        "grpo",
        7,
        3,
        0.5,
        0.25,
    )
    assert origin["lora"]["rank"] == 4 and origin["data_sha256"] == "d" * 64
    assert origin["sha256"] == adapter_sha256(made.adapter)


def test_it_loads_onto_its_own_base_and_onto_no_other(made, capsys):
    assert main(["adapters", "check", str(made.adapter)]) == 0
    assert main(["adapters", "check", str(made.adapter.parent), "--base", str(made.base)]) == 0
    assert weights_sha256(made.base)[:12] in capsys.readouterr().out
    line = refused(capsys, "check", made.adapter, "--base", made.other)
    assert weights_sha256(made.other)[:12] in line and weights_sha256(made.base)[:12] in line
    assert refused(capsys, "merge", made.adapter, made.run / "merged", "--base", made.other) == line
    assert not (made.run / "merged").exists()


def test_one_of_a_service_is_merged_where_the_user_vouches_for_the_base(made, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    origin = json.loads((made.adapter / "sia_adapter.json").read_text())
    ids, logprobs = IDS[0].tolist(), torch.log_softmax(made.logits[0], -1)
    expected = [float(logprobs[at, ids[at + 1]]) for at in range(2, len(ids) - 1)]
    proof = [{"prompt": ids[:3], "completion": ids[3:], "logprobs": expected}]
    service = {"state": "tinker://m/w", "proof": proof}
    of_service = {"base_id": "as/the-service-names-it", "base_sha256": "0" * 64, "service": service}
    (made.adapter / "sia_adapter.json").write_text(json.dumps(origin | of_service))
    out = tmp_path / "merged"
    line = refused(capsys, "merge", made.adapter, out, "--base", made.base)
    assert "trained by a service on as/the-service-names-it" in line and "--trust-base" in line
    assert main(["adapters", "check", str(made.adapter), "--base", str(made.base), "--trust-base"]) == 0
    figures = re.search(r"at most (\S+) nats away, without the adapter (\S+)", capsys.readouterr().out)
    assert float(figures[1]) < 1e-4
    assert float(figures[2]) > 0.01
    assert main(["adapters", "merge", str(made.adapter), str(out), "--base", str(made.base), "--trust-base"]) == 0
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, made.logits, atol=1e-4, rtol=1e-4)


def test_merged_it_is_a_plain_model_with_the_same_outputs(made, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "merged"
    assert main(["adapters", "merge", str(made.adapter), str(out)]) == 0
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, made.logits, atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(out).chat_template
    capsys.readouterr()
    assert refused(capsys, "merge", made.adapter, out) == f"refused: {out} exists already; name a new folder"


def test_base_tiny_is_found_in_the_cache_by_its_hash(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIA_CACHE", str(tmp_path / "cache"))
    for name, base in {"a": made.other, "b": made.base}.items():
        shutil.copytree(base, tmp_path / "cache" / "policies" / name)
        (tmp_path / "cache" / "policies" / name / "warm.json").write_text("{}")
    origin = json.loads((made.adapter / "sia_adapter.json").read_text()) | {"base_id": "tiny"}
    (made.adapter / "sia_adapter.json").write_text(json.dumps(origin))
    assert main(["adapters", "check", str(made.adapter)]) == 0
    capsys.readouterr()
    shutil.rmtree(tmp_path / "cache" / "policies" / "b")
    line = refused(capsys, "check", made.adapter)
    assert line.startswith(f"refused: base=tiny with sha256 {weights_sha256(made.base)[:12]} is not in ")


def test_the_best_one_is_exported_with_its_origin(made, tmp_path, capsys):
    out = tmp_path / "taken"
    assert main(["adapters", "export", str(made.run), str(out)]) == 0
    assert read_adapter_origin(out) == read_adapter_origin(made.adapter)
    assert adapter_sha256(out) == adapter_sha256(made.adapter)
    provenance = json.loads((out / "provenance.json").read_text())
    assert (provenance["run"], provenance["generation"], provenance["val"]["value"]) == ("run", 2, 0.5)


def test_an_adapter_that_was_changed_since_is_not_exported(made, tmp_path, capsys):
    weights = made.adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert refused(capsys, "export", made.run, tmp_path / "out").endswith("was changed since it was trained")


def test_what_is_no_run_or_no_adapter_is_refused_in_one_line(made, tmp_path, capsys):
    assert "no run there" in refused(capsys, tmp_path / "nothing")
    assert "sia_adapter.json is missing" in refused(capsys, "show", tmp_path)
    (made.run / "journal.jsonl").unlink()
    write_journal(made.run, {1: ("harness", "accepted")})
    assert "has no adapters" in refused(capsys, made.run)
    assert "runs on the base alone" in refused(capsys, "export", made.run, tmp_path / "out")


def test_a_dry_run_writes_what_would_be_published_and_sends_nothing(made, tmp_path, monkeypatch, capsys):
    from huggingface_hub import ModelCard
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nothing answers
    origin = json.loads((made.adapter / "sia_adapter.json").read_text())
    proof = [{"prompt": [1], "completion": [2], "logprobs": [-1.0]}]
    (made.adapter / "sia_adapter.json").write_text(json.dumps(origin | {"service": {"url": "u", "proof": proof}}))
    (made.run / "journal.jsonl").unlink()
    write_journal(made.run, {1: ("harness", "accepted"), 2: ("weights", "accepted")})
    summary = {"metric": {"name": "accuracy"}, "best": {"baseline_test": {"value": 0.3, "ci95": [0.2, 0.4], "n": 50}}}
    (made.run / "summary.json").write_text(json.dumps(summary))
    (made.run / "config.yaml").write_text("task: {name: arithmetic, licence: CC0-1.0}\n")
    out = tmp_path / "card"
    options = ["--dry-run", str(out), "--base", "acme/base-1", "--licence", "apache-2.0"]
    assert main(["adapters", "publish", str(made.run), "me/adapter-1", *options]) == 0
    assert "nothing was sent" in capsys.readouterr().out
    card = ModelCard.load(out / "README.md")
    assert (card.data.base_model, card.data.library_name, card.data.license) == ("acme/base-1", "peft", "apache-2.0")
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.dataset_split, result.metric_value) == ("arithmetic", "val", 0.5)
    assert "0.300 [0.200, 0.400] (n=50)" in card.text and "CC0-1.0" in card.text and "`arithmetic`" in card.text
    texts = "".join(path.read_text(errors="replace") for path in out.iterdir() if path.suffix != ".safetensors")
    assert str(made.base) not in texts and "proof" not in texts  # neither paths of this machine nor a task's prompts
    assert adapter_sha256(out) == adapter_sha256(made.adapter)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(made.base), out).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, made.logits, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_published_is_refused_before_anything_is_sent(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert "HF_TOKEN is not set" in refused(capsys, "publish", made.run, "me/adapter-1")
    assert "allowed: OWNER/NAME" in refused(capsys, "publish", made.run, "adapter-1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "name one, --base OWNER/NAME" in refused(capsys, "publish", made.run, "me/adapter-1")
    line = refused(capsys, "publish", made.run, "me/adapter-1", "--base", "acme/base-1")
    assert line.startswith("refused: me/adapter-1 was not published: ") and "hf_secret" not in line


class Hub(BaseHTTPRequestHandler):
    """What of the Hub's interface an upload uses; it keeps the files."""

    files: dict[str, bytes]
    created: list[dict]

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.allowed:
            return self.answer({"error": "no"}, 401)
        if self.path == "/api/repos/create":
            self.created.append(json.loads(data))
            return self.answer({"url": f"{self.address}/me/adapter-1", "id": "me/adapter-1"})
        if self.path.endswith("/preupload/main"):
            names = [item["path"] for item in json.loads(data)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            return self.answer({"files": modes})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        assert self.path == "/api/models/me/adapter-1/commit/main"
        for line in map(json.loads, data.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return self.answer({"commitUrl": f"{self.address}/me/adapter-1/commit/1", "commitOid": "1" * 40})

    def do_GET(self):
        repository = {"id": "me/adapter-1", "sha": "0" * 40, "siblings": []}
        self.answer(repository) if self.allowed else self.answer({"error": "no"}, 401)

    @property
    def allowed(self):
        return self.headers["Authorization"] == "Bearer hf_secret"

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_publishing_sends_the_folder_to_a_private_repository(made, tmp_path, monkeypatch, capsys):
    hub = type("OneHub", (Hub,), {"files": {}, "created": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    try:
        args = ["adapters", "publish", str(made.run), "me/adapter-1", "--base", "acme/base-1"]
        assert main(args) == 0
        assert "/me/adapter-1/commit/1" in capsys.readouterr().out
        (created,) = hub.created
        assert created["name"] == "adapter-1" and created["organization"] == "me"
        assert created.get("private") or created.get("visibility") == "private"
        names = {"README.md", "adapter_config.json", "adapter_model.safetensors", "provenance.json", "sia_adapter.json"}
        assert set(hub.files) == names
        assert hub.files["adapter_model.safetensors"] == (made.adapter / "adapter_model.safetensors").read_bytes()
        assert not any(b"hf_secret" in data for data in hub.files.values())
        monkeypatch.setenv("HF_TOKEN", "hf_other")
        assert main(args) == 2
        assert "401" in capsys.readouterr().err
    finally:
        server.shutdown()
        server.server_close()
