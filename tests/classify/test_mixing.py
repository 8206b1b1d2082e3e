"""Which images make up an epoch, for the four ways to use synthetic ones."""

import time

import pytest
import torch
from scipy.stats import binomtest, chisquare

from synthaug.classify.mixing import Concat, GlobalRandomReplace, LocalRandomReplace, Replace, Utilize
from synthaug.settings import UserError

WAYS = [Concat(), Replace(), LocalRandomReplace(), GlobalRandomReplace()]
N, K = 400, 5
SOURCES = torch.arange(N).repeat(K)  # variant by variant, as shards lie


def epoch(way: Utilize, n: int = N, sources: torch.Tensor | list[int] = SOURCES, seed: int = 0) -> torch.Tensor:
    return way.epoch(n, sources, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("way", "length"), list(zip(WAYS, (N * (1 + K), N * K, N, N), strict=True)))
def test_length_and_range(way, length):
    indices = epoch(way)
    assert len(indices) == length and indices.dtype == torch.long
    assert indices.min() >= 0 and indices.max() < N * (1 + K)


def test_concat_and_replace_show_each_image_once():
    assert sorted(epoch(Concat()).tolist()) == list(range(N * (1 + K)))
    assert sorted(epoch(Replace()).tolist()) == list(range(N, N * (1 + K)))


@pytest.mark.parametrize("way", WAYS)
def test_order_belongs_to_the_generator(way):
    assert torch.equal(epoch(way), epoch(way))
    assert not torch.equal(epoch(way), epoch(way, seed=1))
    assert epoch(way).tolist() != sorted(epoch(way).tolist())


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", [LocalRandomReplace, GlobalRandomReplace])
def test_share_of_replaced_images_is_p(kind, p):
    replaced = sum(int((epoch(kind(p=p), seed=s) >= N).sum()) for s in range(20))
    if p in (0, 1):
        assert replaced == 20 * N * p
    assert binomtest(replaced, 20 * N, p).pvalue > 1e-3


def test_local_takes_each_image_once_as_itself_or_a_variant_of_its_own():
    mixed = torch.randperm(N * K, generator=torch.Generator().manual_seed(3))
    sources = SOURCES[mixed]  # no order among the synthetic images is assumed
    indices = epoch(LocalRandomReplace(p=0.7), sources=sources)
    own = torch.cat([torch.arange(N), sources])[indices]
    assert sorted(own.tolist()) == list(range(N))


def test_local_draws_variants_uniformly_and_anew():
    sources = torch.tensor([0, 2, 2, 2, 0])
    drawn = torch.stack([epoch(LocalRandomReplace(p=1), 3, sources, s).sort().values for s in range(3000)])
    assert (drawn == 1).any(1).all()  # image 1 has no variants and stays
    counts = torch.bincount(drawn.flatten(), minlength=8).tolist()
    assert counts[0] == counts[2] == 0
    assert chisquare([counts[3], counts[7]]).pvalue > 1e-3 and counts[3] + counts[7] == 3000
    assert chisquare(counts[4:7]).pvalue > 1e-3


def test_global_draws_any_synthetic_image_uniformly_and_keeps_the_other_real_ones():
    drawn = torch.cat([epoch(GlobalRandomReplace(p=1), 10, [0, 0, 0, 7], s) for s in range(600)])
    assert chisquare(torch.bincount(drawn - 10, minlength=4).tolist()).pvalue > 1e-3
    real = epoch(GlobalRandomReplace(p=0.5))
    real = real[real < N]
    assert len(real.unique()) == len(real)


def test_without_synthetic_images_all_but_replace_give_the_same_permutation():
    orders = [epoch(way, sources=[]) for way in (Concat(), LocalRandomReplace(), GlobalRandomReplace())]
    assert sorted(orders[0].tolist()) == list(range(N))
    assert torch.equal(orders[0], orders[1]) and torch.equal(orders[0], orders[2])
    with pytest.raises(UserError, match="Replace"):
        epoch(Replace(), sources=[])


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_p_is_a_probability(p):
    with pytest.raises(ValueError, match="p"):
        LocalRandomReplace(p=p)


def test_imagenet_takes_seconds():
    n = 1_281_167
    start = time.process_time()
    assert len(epoch(LocalRandomReplace(), n, torch.arange(n).repeat(3))) == n
    assert time.process_time() - start < 5
