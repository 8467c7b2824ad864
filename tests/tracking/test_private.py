"""A run full of things that nobody may tell, printed, raised and answered by its harness: what is told holds none."""

import re
import shutil

import pytest

from tests.conftest import Cli
from tests.harnesses import HEAD, MAJORITY
from tests.tracking import offline
from tests.tracking.conftest import OFFLINE, SECRET_KEY, private_texts, secrets_task, sync, told
from tests.tracking.server import serving
from tests.wandb_server import KEY

HEADER = "header-0123456789-of-the-provider"
PATH = "private-path-of-the-provider"
# Everything that a harness can see goes wherever a harness can write: its output, its record, its answers.
LOOKS = HEAD + (
    "everything = repr([dict(os.environ), train, asked])\n"
    "print(everything), print(everything, file=sys.stderr)\n"
    "(work / 'agent_execution.json').write_text(everything)\n"
)
TELLS = LOOKS + "answer([(q['id'], q['text'] if n % 2 else everything[:500]) for n, q in enumerate(asked)])\n"
# An error whose very name is a question.
RAISES = LOOKS + (
    "name = ''.join(c for c in asked[0]['text'].title() if c.isalpha()) + 'Error'\n"
    "raise type(name, (Exception,), {})(os.environ['OPENAI_API_KEY'] + asked[0]['text'])\n"
)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    cli = Cli(tmp_path_factory.mktemp("planted"))
    task = secrets_task(cli.folder / "secrets")
    env = {**OFFLINE, "MY_KEY": SECRET_KEY, "HF_TOKEN": "hf_0123456789"}
    harnesses = cli.replay(MAJORITY, TELLS, RAISES)
    with serving() as anybody:  # it is there, and nobody asks it for an answer
        provider = ["provider=custom", f"provider.base_url={anybody.url}/{PATH}/v1", "provider.model=some-model",
                    "provider.key=MY_KEY", f"+provider.headers.x-mine={HEADER}"]  # fmt: skip
        done = cli(*task, *provider, "tracker=wandb", "tracker.wait=60", *harnesses, env=env)
    assert done.returncode == 0, done.stderr
    assert len(told(done.stderr)) == 1
    return cli


@pytest.fixture(scope="module")
def private(planted, _own_cache):
    """Return the planted texts, and private texts that the run made itself."""
    printed = (planted.run / "gen_2" / "stdout.log").read_text()
    token = re.search(r"'OPENAI_API_KEY': '([^']+)'", printed)[1]
    error = re.search(r"(\w+Error): ", planted.summary["generations"][2]["reason"])[1]
    texts = {*private_texts(_own_cache), HEADER, PATH, token, error, "hf_0123456789"}
    assert len(texts) > 300 and token in printed and error.startswith(("Even", "Odd", "Rare"))
    return texts


def test_the_offline_file_holds_nothing_of_it(planted, private):
    read = repr(offline.records(planted.run))
    assert "some-model" in read and str(planted.folder) not in read.replace(str(planted.run / "tracking"), "")
    for file in [path for path in (planted.run / "tracking").rglob("*") if path.is_file()]:
        read += file.read_bytes().decode(errors="replace")
    assert not [text for text in private if text in read]


def test_nothing_of_it_reaches_the_server(planted, private, tmp_path):
    run = shutil.copytree(planted.run, tmp_path / "run", symlinks=True)
    with serving() as server:
        assert sync(run, server).returncode == 0
        sent = b"\n".join(server.bodies).decode(errors="replace")
    assert "some-model" in sent and str(planted.folder) not in sent and KEY not in sent
    assert not [text for text in private if text in sent]


def test_its_verdicts_are_told_all_the_same(planted):
    assert [row["status"] for row in offline.verdicts(planted.run)] == ["accepted", "rejected", "failed"]
