"""The documentation names files that exist, and the reference of the configuration is the schema's."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("slurm/*.md")])
PAGES += sorted(ROOT.glob("tasks/**/README.md"))
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)  # examples, also of files that a reader writes
OUR_PATH = re.compile(r"(?<![\w/.-])((?:sia_runner|conf|tests|benchmarks|hydra_plugins)/[\w/.-]*\w/?)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_and_every_path_of_ours_exists(page):
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    links = [(target, anchor) for target, anchor in LINK.findall(text)]
    targets = [(page.parent / target if target else page, anchor) for target, anchor in links]
    absent = [str(target) for target, _ in targets if not target.exists()]
    absent += [f"{target} is a folder" for target, _ in targets if target.is_dir()]  # the site has files only
    absent += [path for path in OUR_PATH.findall(text) if not (ROOT / path).exists()]
    assert absent == []
    assert [f"{target.name}#{anchor}" for target, anchor in targets if anchor and anchor not in headings(target)] == []


def headings(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the hosting sites derive them."""
    titles = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_configuration_page_is_generated_from_the_schema():
    path = ROOT / "docs/make_configuration.py"
    spec = importlib.util.spec_from_file_location("make_configuration", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.render_page(), "run: python docs/make_configuration.py"
