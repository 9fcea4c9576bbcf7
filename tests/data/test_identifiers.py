"""Hashes of identifiers: they join rows, and tell what does not name a row."""

from __future__ import annotations

import numpy as np

from distnewton.data.identifiers import hash_identifiers, identifier_problem, matching_rows


def test_hashes_join_rows_and_tell_collisions():
    rng = np.random.default_rng(3)
    texts = [f"{i}é" for i in range(1000)]
    order = rng.permutation(1000)
    hashes, others = hash_identifiers([texts[:10], texts[10:]]), hash_identifiers([[texts[i] for i in order]])
    assert hashes.shape == (1000, 2)
    assert identifier_problem(hashes) is None
    assert np.array_equal(order[matching_rows(hashes, others)], np.arange(1000))
    # one first word for two identifiers: within a table, and of two tables
    collided = hashes.copy()
    collided[7, 0] = collided[5, 0]
    text, row = identifier_problem(collided)
    assert (text, row in (5, 7)) == ("two identifiers have the same hash: rename one of them", True)
    collided = others.copy()
    collided[order == 5] = hashes[5, 0], 1
    assert matching_rows(hashes, collided)[5] == -1


def test_missing_and_repeated_identifiers_are_counted():
    def problem(texts):
        return identifier_problem(hash_identifiers([texts]))

    assert problem(["a", "", "b", ""]) == ("2 of 4 rows have no identifier", 1)
    text, row = problem(["c", "a", "b", "a", "c", "c", "d"])
    assert text == "2 identifier(s) appear in several rows"
    assert row in (0, 1, 3, 4, 5)
    assert problem(["only"]) is None
