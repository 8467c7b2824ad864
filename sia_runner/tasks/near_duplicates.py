"""The search for near-duplicate questions.

MinHash with locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, ch. 3)
finds candidates; the exact Jaccard similarity of their shingles decides. Texts are compared without case, width
(full-width forms), spaces and numbers: a court case told again with another sum and another date is the same case. In a
short text a number is the question itself (12+34=), so there it stays.
"""

import hashlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sia_runner.store.run_directory import write_text
from sia_runner.tasks.splits import connected_blocks

Hashes = NDArray[np.uint64]
MIN_SIMILARITY = 0.8  # Jaccard similarity of shingles from which two texts are near-duplicates
SHINGLE_LENGTH = 5  # characters
SHORT_TEXT = 40  # characters; in fewer, one other word changes more than a fifth of the runs: only equal texts are near
_BANDS, _ROWS = 32, 6  # at .8 a pair is missed with probability (1 - .8^6)^32 = 6e-5, at .3 a candidate with .02
_LEAST_SHARE = 0.68  # of equal signature rows: four standard errors below .8
_FORMAT = 1  # raised when other pairs would be found in the same texts
_ODD, _ODDER, _STEP = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15  # splitmix64 (Steele et al. 2014)


def near_duplicate_groups(texts: Mapping[str, str], cache: Path) -> list[list[str]]:
    """Return groups of names, in order, whose texts are near-duplicates, directly or through others."""
    digest = hashlib.sha256(f"{_FORMAT} {MIN_SIMILARITY} {SHINGLE_LENGTH} {SHORT_TEXT}\n".encode())
    for name, text in texts.items():
        digest.update(json.dumps([name, text]).encode() + b"\n")
    path = cache / f"near_{digest.hexdigest()[:16]}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        groups = find_near_duplicates(texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(groups))
    return groups


def find_near_duplicates(texts: Mapping[str, str]) -> list[list[str]]:
    """Return the groups that `near_duplicate_groups` returns, without a cache."""
    plain = {name: normalised_text(text) for name, text in texts.items()}
    first: dict[str, str] = {}
    pairs = [(first.setdefault(text, name), name) for name, text in plain.items()]  # equal texts, of any length
    names = [name for name in first.values() if len(plain[name]) >= SHORT_TEXT]
    sets = [shingles(plain[name]) for name in names]
    near = [(i, j) for i, j in _candidates(sets) if jaccard_similarity(sets[i], sets[j]) >= MIN_SIMILARITY]
    groups = connected_blocks(list(texts), pairs + [(names[i], names[j]) for i, j in near])
    return [group for group in groups if len(group) > 1]


def normalised_text(text: str) -> str:
    """Return the text in the form that is compared: no spaces, one case and width, 0 for a number in a long text."""
    plain = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain if len(plain) < SHORT_TEXT else re.sub(r"\d+", "0", plain)


def shingles(text: str) -> Hashes:
    """Return 64-bit hashes of all runs of SHINGLE_LENGTH characters, sorted, each once; a shorter text is one run."""
    codes_n = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    codes_n = np.pad(codes_n, (0, max(0, SHINGLE_LENGTH - len(codes_n))))
    count = len(codes_n) - SHINGLE_LENGTH + 1
    hashed = np.zeros(count, dtype=np.uint64)
    for offset in range(SHINGLE_LENGTH):
        hashed = _mixed(hashed ^ codes_n[offset : offset + count])
    return np.unique(hashed)


def jaccard_similarity(first: Hashes, second: Hashes) -> float:
    """Return the Jaccard similarity of two sets of shingles: the size of the intersection over that of the union."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


def _candidates(sets: Sequence[Hashes]) -> list[tuple[int, int]]:
    """Return pairs of indices whose signatures (minima under all hash functions) agree in a band and enough rows."""
    if not sets:
        return []
    keys_k = _mixed(np.arange(1, _BANDS * _ROWS + 1, dtype=np.uint64) * np.uint64(_STEP))
    signature_nk = np.stack([((hashes[:, None] ^ keys_k) * np.uint64(_ODD)).min(axis=0) for hashes in sets])
    pairs: set[tuple[int, int]] = set()
    for start in range(0, _BANDS * _ROWS, _ROWS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for index, band in enumerate(signature_nk[:, start : start + _ROWS]):
            buckets[band.tobytes()].append(index)
        for indices in buckets.values():
            pairs.update(combinations(indices, 2))
    return [(i, j) for i, j in sorted(pairs) if (signature_nk[i] == signature_nk[j]).mean() >= _LEAST_SHARE]


def _mixed(values: Hashes) -> Hashes:
    """Apply splitmix64's finaliser: every bit of a value changes all bits of its hash. Overflow is intended."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_ODD)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_ODDER)
    return values ^ (values >> np.uint64(31))
