"""Counts of the messages of early termination on up to 4,096 ranks, simulated, and who hears what."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from distnewton.parallel.early_stop import stop_threshold
from distnewton.parallel.relay import FAN_OUT, Relay


class Nodes:
    """Nodes whose messages arrive in the order of each pair, and otherwise in any order."""

    def __init__(self, n_nodes, ranks_per_node, rng):
        self.relays, self.rng = [Relay(k, n_nodes) for k in range(n_nodes)], rng
        self.per_node = ranks_per_node
        self.n_sent, self.by_node = 0, np.zeros(n_nodes, dtype=np.int64)

    def phase(self, number, order, enough):
        """Ranks finish in this order; those that are not in it leave when they hear that enough have."""
        n_nodes = len(self.relays)
        finished, left = np.zeros(n_nodes, dtype=int), np.zeros(n_nodes, dtype=int)
        nodes = np.array(order, dtype=int) // self.per_node
        waiting = self.per_node - np.bincount(nodes, minlength=n_nodes)
        for relay in self.relays:
            relay.begin(number, enough)
        self.queue = deque()
        for rank in order:
            node = rank // self.per_node
            finished[node] += 1
            left[node] += 1
            self.look(node, finished, left)
            self.deliver(finished, left)
        for node in range(n_nodes):
            # the others are stopped, or end by their own rule without having finished
            left[node] += waiting[node]
            self.look(node, finished, left)
        self.deliver(finished, left)
        return [relay.count for relay in self.relays]

    def look(self, node, finished, left):
        relay = self.relays[node]
        relay.update(int(finished[node]), all_left=left[node] == self.per_node)
        for target, message in relay.due(lambda _: True):
            assert target == relay.parent or target in relay.children
            self.n_sent += 1
            self.by_node[node] += 1
            self.queue.append((node, target, message))

    def deliver(self, finished, left):
        while self.queue:
            source, target, message = self.queue.popleft()
            self.relays[target].hear(source, message)
            self.look(target, finished, left)


@pytest.mark.parametrize(("n_ranks", "per_node"), [(2, 1), (64, 1), (4096, 64), (4096, 1), (1000, 7)])
@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_messages_of_a_phase(n_ranks, per_node, fraction):
    n_nodes, rng = -(-n_ranks // per_node), np.random.default_rng(0)
    n_ranks = n_nodes * per_node
    nodes, enough = Nodes(n_nodes, per_node, rng), stop_threshold(n_ranks, fraction)
    counts = nodes.phase(0, rng.permutation(n_ranks)[:enough].tolist(), enough)
    assert set(counts) == {enough}
    assert all(relay.is_done for relay in nodes.relays)
    depth = int(np.ceil(np.log(n_nodes * (FAN_OUT - 1) + 1) / np.log(FAN_OUT)))
    # one down each edge; up at most one a level for each rank that finishes, and for each node that leaves
    assert n_nodes - 1 <= nodes.n_sent <= (n_nodes - 1) + (depth - 1) * (enough + n_nodes)
    # where each told everyone on other nodes
    assert n_ranks < 64 or nodes.n_sent < 0.2 * enough * (n_ranks - per_node)
    assert max(len(relay.children) for relay in nodes.relays) <= FAN_OUT


def test_everyone_on_4096_ranks_hears_at_the_rank_that_makes_enough():
    n_nodes, per_node, rng = 64, 64, np.random.default_rng(1)
    nodes = Nodes(n_nodes, per_node, rng)
    order = rng.permutation(4096)[:2048].tolist()
    heard = []

    def spy(finished, left, plain=nodes.deliver):
        plain(finished, left)
        heard.append(min(relay._total or 0 for relay in nodes.relays))

    nodes.deliver = spy
    nodes.phase(0, order, 2048)
    assert heard[:2047] == [0] * 2047
    assert heard[2047] == 2048


def test_a_phase_without_enough_ends_and_the_next_one_counts_anew():
    nodes = Nodes(100, 3, np.random.default_rng(2))
    assert set(nodes.phase(0, [5, 17], 300)) == {2}
    assert all(relay.is_done for relay in nodes.relays)
    assert set(nodes.phase(1, [], 1)) == {0}
    assert set(nodes.phase(2, list(range(300)), 150)) <= set(range(150, 301))


def test_a_message_of_the_next_phase_waits_for_it():
    parent = Relay(0, 2)
    parent.begin(1, 2)
    parent.hear(1, (2, 1, 1))
    assert parent.count == 0
    parent.hear(1, (0, 1, 1))
    assert parent.count == 0
    parent.begin(2, 2)
    assert parent.count == 1


def test_what_cannot_be_sent_is_sent_later_as_one():
    child = Relay(1, 2)
    child.begin(0, 5)
    child.update(1, all_left=False)
    assert child.due(lambda _: False) == []
    child.update(3, all_left=True)
    assert child.due(lambda _: True) == [(0, (0, 3, 1))]
    assert child.due(lambda _: True) == []
    assert child.may_leave
    assert not child.is_done
    child.hear(0, (0, 3, 0))
    assert child.is_done
