from __future__ import annotations

import torch

from snac_core.model.batch_context import BatchContext
from snac_core.model.quantizer import Level
from tests.support.models import TINY, random_model
from tests.trainer.conftest import RATE, levels_of, voice
from trainer.model.codebooks import JITTER, REMEMBERED, CodebookUsage

SIZE, DIM = TINY.codebook_size, TINY.codebook_dim


def batch(seed: int, seconds: float = 12288 / RATE) -> torch.Tensor:
    return torch.from_numpy(voice(seconds, seed))[None, None]


def test_unused_entries_become_recent_latents_and_used_ones_stay() -> None:
    model = random_model(TINY)
    quantizer = model.quantizer
    books = [level.codebook.weight for level in levels_of(model)]
    before = [book.detach().clone() for book in books]
    use = CodebookUsage(quantizer, seed=1)
    with torch.no_grad():
        levels = quantizer(model.encoder(batch(1), BatchContext(12288)))[1]
    use.observe(levels)
    replaced = use.revive()
    for book, old, level, count in zip(books, before, levels, replaced, strict=True):
        used = torch.zeros(SIZE, dtype=torch.bool)
        used[level.codes.flatten()] = True
        assert count == int((~used).sum())
        assert torch.equal(book[used], old[used])
        latents = level.projected[0].t()
        nearest = torch.cdist(book[~used].detach(), latents).amin(dim=1)
        spread = JITTER * latents.std(dim=0, correction=0).norm()
        assert nearest.max() < 4 * spread
        # No two at one place.
        assert len({tuple(entry) for entry in book[~used].tolist()}) == count


def test_a_revived_entry_has_none_of_the_moments_of_the_one_before() -> None:
    model = random_model(TINY)
    book = levels_of(model)[0].codebook.weight
    optimizer = torch.optim.AdamW([book])
    book.grad = torch.ones_like(book)
    optimizer.step()
    use = CodebookUsage(model.quantizer, seed=1)
    latents = torch.randn(1, DIM, 4)
    use.observe([Level(torch.full((1, 4), 5), latents, latents)] * 3)
    use.revive(optimizer)
    for name in ("exp_avg", "exp_avg_sq"):
        moment = optimizer.state[book][name]
        assert moment[5].all()
        assert not moment[:5].any()
        assert not moment[6:].any()


def test_entries_follow_the_latents_that_chose_them() -> None:
    model = random_model(TINY)
    books = [level.codebook.weight for level in levels_of(model)]
    before = [book.detach().clone() for book in books]
    latents = torch.randn(2, DIM, 3)
    codes = torch.tensor([[7, 7, 9], [7, 9, 11]])
    CodebookUsage(model.quantizer, seed=0).follow([Level(codes, latents, latents)] * 3, decay=0.8)
    points = latents.transpose(1, 2)
    means = {
        7: (points[0, 0] + points[0, 1] + points[1, 0]) / 3,
        9: (points[0, 2] + points[1, 1]) / 2,
        11: points[1, 2],
    }
    for book, old in zip(books, before, strict=True):
        for code, mean in means.items():
            torch.testing.assert_close(book.detach()[code], 0.8 * old[code] + 0.2 * mean)
            old[code] = book.detach()[code]
        assert torch.equal(book.detach(), old)


def test_the_same_seed_revives_the_same() -> None:
    books = []
    for _ in range(2):
        model = random_model(TINY)
        use = CodebookUsage(model.quantizer, seed=3)
        with torch.no_grad():
            use.observe(model.quantizer(model.encoder(batch(1), BatchContext(12288)))[1])
        use.revive()
        books.append(levels_of(model)[0].codebook.weight.detach())
    assert torch.equal(*books)


def test_counting_starts_over_after_a_revival() -> None:
    model = random_model(TINY)
    use = CodebookUsage(model.quantizer, seed=0)
    steps = [1, 2, 4]

    def levels(code: int) -> list[Level]:
        return [
            Level(torch.full((1, n), code), torch.zeros(1, DIM, n), torch.zeros(1, DIM, n))
            for n in steps
        ]

    use.observe(levels(5))
    assert use.perplexities() == [1.0, 1.0, 1.0]
    assert use.revive() == [SIZE - 1] * 3
    use.observe(levels(6))
    use.observe(levels(7))
    assert use.revive() == [SIZE - 2] * 3


def test_perplexity_is_the_number_of_entries_in_even_use() -> None:
    use = CodebookUsage(random_model(TINY).quantizer, seed=0)
    codes = torch.arange(64)[None]
    level = Level(codes, torch.zeros(1, DIM, 64), torch.zeros(1, DIM, 64))
    use.observe([level] * 3)
    assert [round(value, 6) for value in use.perplexities()] == [64.0] * 3


def test_what_is_remembered_is_bounded_and_recent() -> None:
    model = random_model(TINY)
    use = CodebookUsage(model.quantizer, seed=0)
    length = REMEMBERED // 4
    for number in range(12):
        latents = torch.full((1, DIM, length), float(number))
        use.observe([Level(torch.zeros(1, length, dtype=torch.int64), latents, latents)] * 3)
    use.revive()
    book = levels_of(model)[0].codebook.weight.detach()[1:]
    assert set(book.round().flatten().tolist()) == {8.0, 9.0, 10.0, 11.0}
