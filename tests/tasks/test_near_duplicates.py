"""Which questions count as nearly the same, and what a harness is not taught while weights are trained."""

import random

import numpy as np
import pytest

from sia_runner.tasks import near_duplicates
from sia_runner.tasks.near_duplicates import (
    find_near_duplicates,
    jaccard_similarity,
    near_duplicate_groups,
    normalised_text,
    shingles,
)

CASE = (
    "被告人王某于2019年3月5日在本市东区某商场内，趁被害人李某不备，窃取其手机一部，"
    "价值人民币3500元，后被民警抓获归案并如实供述。"
)


def noise(rng, length=120):
    return "".join(chr(rng.randrange(0x4E00, 0x5E00)) for _ in range(length))


def changed(text, rng, share):
    """`share` of the characters replaced, in one run."""
    count, start = round(share * len(text)), rng.randrange(len(text) // 2)
    return text[:start] + noise(rng, count) + text[start + count :]


@pytest.mark.parametrize(
    "again",
    [
        CASE.replace("2019", "2021").replace("3500", "12000"),
        CASE.replace("3500", "３５００"),
        f"  {CASE[:20]} {CASE[20:]}\n",
        CASE.replace("王某", "赵某"),
    ],
    ids=["other numbers", "full width", "spaces", "another name"],
)
def test_a_text_told_again_is_near(again):
    assert find_near_duplicates({"a": CASE, "b": again, "c": CASE[::-1]}) == [["a", "b"]]


def test_case_of_letters_says_nothing():
    text = "The battery lasts for two days, and the strap is sturdy enough for me."
    assert find_near_duplicates({"a": text, "b": text.upper()}) == [["a", "b"]]


def test_in_a_short_question_the_numbers_are_what_is_asked():
    assert find_near_duplicates({"a": "347+4=", "b": "347+3=", "c": "347 + 4 =", "d": "１２+4="}) == [["a", "c"]]


def test_pairs_are_those_of_the_exact_similarity():
    """Against all pairs of 150 texts, a third of them changed copies of others: none missed, none too many."""
    rng = random.Random(3)
    texts = {f"t{i}": noise(rng) for i in range(100)}
    texts |= {f"c{i}": changed(texts[f"t{i}"], rng, rng.uniform(0, 0.2)) for i in range(50)}
    sets = {name: shingles(normalised_text(text)) for name, text in texts.items()}
    exact = [
        [f"t{i}", f"c{i}"]
        for i in range(50)
        if jaccard_similarity(sets[f"t{i}"], sets[f"c{i}"]) >= near_duplicates.MIN_SIMILARITY
    ]
    assert 5 < len(exact) < 45
    assert sorted(find_near_duplicates(texts)) == sorted(exact)


def test_jaccard_is_that_of_the_sets_of_runs():
    one, other = "abcdefgh", "abcdefxy"  # abcde bcdef cdefg defgh, abcde bcdef cdefx defxy
    assert jaccard_similarity(shingles(one), shingles(other)) == pytest.approx(2 / 6)
    assert len(shingles("aaaaaaaaaa")) == 1


def test_a_chain_is_one_group_in_the_order_of_the_texts():
    rng = random.Random(1)
    text = noise(rng, 200)
    middle = text[:192] + noise(rng, 8)
    end = noise(rng, 16) + middle[16:]
    sets = [shingles(normalised_text(t)) for t in (text, end)]
    assert jaccard_similarity(*sets) < near_duplicates.MIN_SIMILARITY, "the ends of the chain are not near one another"
    assert find_near_duplicates({"z": end, "q": "other", "a": text, "m": middle}) == [["z", "a", "m"]]


def test_odd_texts_do_no_harm():
    odd = {"empty": "", "blank": " \n", "lone surrogate": "\ud800" * 60, "digits": "7" * 90, "more digits": "8" * 50}
    assert find_near_duplicates(odd) == [["empty", "blank"], ["digits", "more digits"]]


def test_groups_are_kept_by_the_texts_and_made_again_when_damaged(tmp_path, monkeypatch):
    texts = {"a": CASE, "b": CASE + "。"}
    assert near_duplicate_groups(texts, tmp_path / "cache") == [["a", "b"]]
    [kept] = (tmp_path / "cache").iterdir()
    kept.write_text("[[")
    assert near_duplicate_groups(texts, tmp_path / "cache") == [["a", "b"]]
    monkeypatch.setattr(near_duplicates, "find_near_duplicates", lambda _: pytest.fail("found again"))
    assert near_duplicate_groups(texts, tmp_path / "cache") == [["a", "b"]]
    with pytest.raises(pytest.fail.Exception):
        near_duplicate_groups(texts | {"c": "another"}, tmp_path / "cache")


def test_hashes_of_runs_do_not_collide_by_their_order():
    """A weak mixing of code points would make texts of the same letters alike."""
    runs = ["".join(random.Random(i).sample("abcdefghij", 5)) for i in range(2000)]
    assert len({int(shingles(run)[0]) for run in set(runs)}) == len(set(runs))
    assert shingles("abcde").dtype == np.uint64
