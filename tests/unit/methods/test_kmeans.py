"""Centroids are the means of what is nearest to them, the objective never rises, and no cluster stays empty."""

from itertools import pairwise

import pytest
import torch

from bertpress.methods.kmeans import kmeans, member_means


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def objective(points, centroids, codes, weights=None):
    squares = (points - centroids[codes.long()]).double().square()
    return float((squares if weights is None else squares * weights).sum())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_objective_never_rises(weighted, seed):
    random = seeded(seed)
    points = torch.randn(600, 4, generator=random) * torch.rand(600, 1, generator=random)
    points[::3] = points[0]  # duplicates make empty clusters
    weights = torch.rand(600, 4, generator=random) if weighted else None
    found = kmeans(points, 64, random, weights=weights)
    history = [*found.objective, objective(points, found.centroids, found.codes, weights)]
    assert len(history) == 21
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(history))
    assert history[-1] < 0.7 * history[0]


def test_empty_clusters_are_split_until_every_distinct_point_has_its_own():
    distinct = torch.randn(40, 3, generator=seeded(1))
    points = distinct[torch.cat([torch.zeros(5000, dtype=torch.long), torch.arange(40)])]
    found = kmeans(points, 40, seeded(2))
    assert torch.equal(found.centroids[found.codes.long()], points)
    assert found.objective[0] > 0


def test_it_ends_at_means_of_the_nearest():
    points = torch.randn(500, 2, generator=seeded(3))
    found = kmeans(points, 10, seeded(4), iterations=200)
    for i in range(10):
        torch.testing.assert_close(found.centroids[i], points[found.codes == i].mean(0))
    assert torch.equal(torch.cdist(points, found.centroids).argmin(1), found.codes.long())


def test_one_cluster_is_the_mean_and_two_split_a_line():
    points = torch.tensor([[0.0], [1.0], [9.0], [11.0]])
    assert kmeans(points, 1, seeded()).centroids.tolist() == [[5.25]]
    assert sorted(kmeans(points, 2, seeded()).centroids.flatten().tolist()) == [0.5, 10.0]


@pytest.mark.parametrize("points", [torch.zeros(9, 2), torch.ones(1, 3), torch.full((300, 1), -0.5)])
def test_constant_points_and_more_clusters_than_points(points):
    found = kmeans(points, 256, seeded())
    assert len(found.centroids) <= len(points)
    assert torch.equal(found.centroids[found.codes.long()], points)


def test_means_by_hand():
    values, codes = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 0.0]]), torch.tensor([1, 1, 0], dtype=torch.uint8)
    old = torch.full((3, 2), 7.0)
    assert member_means(values, codes, None, otherwise=old).tolist() == [[5, 0], [2, 4], [7, 7]]
    weights = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    assert member_means(values, codes, weights, otherwise=old).tolist() == [[7, 0], [2.5, 7], [7, 7]]


def test_a_weight_of_zero_has_no_say():
    points = torch.randn(400, 2, generator=seeded(5))
    weights = torch.tensor([1.0, 0.0]).expand(400, 2)
    moved = points + torch.tensor([0.0, 100.0]) * torch.rand(400, 1, generator=seeded(6))
    first, second = (kmeans(each, 8, seeded(7), weights=weights) for each in (points, moved))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.centroids[:, 0], second.centroids[:, 0])


def test_a_sample_finds_the_centroids_and_all_points_are_assigned_exactly():
    points = torch.randn(5000, 2, generator=seeded(8))
    found = kmeans(points, 16, seeded(9), sample=800)
    assert found.codes.shape == (5000,)
    assert torch.equal(torch.cdist(points, found.centroids).argmin(1), found.codes.long())
    whole = kmeans(points, 16, seeded(9))
    assert objective(points, *found[:2]) < 1.15 * objective(points, *whole[:2])


def test_the_same_seed_gives_the_same_bits():
    points = torch.randn(300, 4, generator=seeded(10))
    first, second, other = (kmeans(points, 20, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.centroids, second.centroids)
    assert not torch.equal(first.centroids, other.centroids)
