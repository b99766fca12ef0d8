"""Planted codes are found again, errors fall with codebooks and sweeps, the file has the bits of the closed form."""

import pytest
import torch
from short_training import context, tiny, train
from tiny_world import fast_tokenizer

from bertpress import artifact
from bertpress.artifact.header import inspect
from bertpress.encoder.layers import code_sums
from bertpress.errors import RecipeError
from bertpress.export.openvino import export
from bertpress.methods.embed.compositional_codes import (
    CompositionalCodes,
    autoencoded,
    error,
    fitted_codebooks,
    recoded,
)

TABLE = "encoder.embeddings.word"
QUICK = {"steps": 200, "batch": 32, "frequency": 0.0}


def random(seed=0):
    return torch.Generator().manual_seed(seed)


def planted(rows=300, codebooks=3, entries=4, size=12):
    codes = torch.randint(entries, (rows, codebooks), generator=random(1)).to(torch.uint8)
    return codes, torch.randn(codebooks, entries, size, generator=random(2))


def fitted(table, codes, entries, weights=None):
    return fitted_codebooks(table, codes, entries, torch.ones(len(table)) if weights is None else weights)


def lost(table, codes, books, weights=None):
    return error(table, codes, books, torch.ones(len(table)) if weights is None else weights)


def learnt(table, codebooks, entries, steps=300, sweeps=0, weights=None):
    weights = torch.ones(len(table)) if weights is None else weights
    codes, books = autoencoded(table, codebooks, entries, random(), steps=steps, batch=32, rate=1e-2, weights=weights)
    for _ in range(sweeps):
        books = fitted(table, codes, entries, weights)
        codes = recoded(table, codes, books)
    return codes, books


def test_sums_by_hand():
    books = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 10.0], [0.0, 20.0]]])
    codes = torch.tensor([[0, 1], [1, 0]], dtype=torch.uint8)
    assert code_sums(codes, books).tolist() == [[1.0, 20.0], [2.0, 10.0]]


def test_least_squares_gives_planted_codebooks_back_up_to_shifts():
    codes, books = planted()
    table = code_sums(codes, books) + 0.7
    assert lost(table, codes, fitted(table, codes, 4)) < 1e-6


def test_codes_are_chosen_as_by_trying_every_entry():
    codes, books = planted(rows=20)
    table = torch.randn(20, 12, generator=random(3))
    expected = codes.clone()
    for i in range(3):
        for row in range(20):
            tried = []
            for entry in range(4):
                expected[row, i] = entry
                tried.append(float((table[row] - code_sums(expected[row], books)).square().sum()))
            expected[row, i] = min(range(4), key=tried.__getitem__)
    assert torch.equal(recoded(table, codes, books), expected)


def test_no_sweep_raises_the_error():
    table = torch.randn(200, 12, generator=random(4)) + 0.5
    codes, books = learnt(table, 4, 4)
    before = lost(table, codes, books)
    for _ in range(4):
        books = fitted(table, codes, 4)
        assert (after := lost(table, codes, books)) <= before + 1e-6
        codes = recoded(table, codes, books)
        assert (before := lost(table, codes, books)) <= after + 1e-6


def test_the_autoencoder_finds_planted_structure_and_beats_random_codes():
    table = code_sums(*planted()) + 2.0
    drawn = torch.randint(4, (300, 3), generator=random(5)).to(torch.uint8)
    centred = table - table.mean(0)

    def missed(codes):
        books = fitted(table, codes, 4)
        return float((table - code_sums(codes, books)).square().sum() / centred.square().sum())

    assert missed(learnt(table, 3, 4, steps=600)[0]) < 0.4 < 0.9 < missed(drawn)


def test_the_error_falls_with_codebooks():
    table = torch.randn(200, 12, generator=random(6))
    errors = [lost(table, *learnt(table, count, 4, sweeps=2)) for count in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_weights_are_those_of_repeated_rows():
    codes, table = planted(rows=40)[0], torch.randn(40, 12, generator=random(8))
    weights = torch.arange(1, 41) % 3 + 1
    again = torch.repeat_interleave(torch.arange(40), weights)
    books = fitted(table, codes, 4, weights.float())
    repeated = fitted(table[again], codes[again], 4)
    assert torch.allclose(code_sums(codes, books), code_sums(codes, repeated), atol=1e-4)  # but for shifts between them
    assert lost(table, codes, books, weights.float()) == pytest.approx(lost(table[again], codes[again], books))


def test_tokens_that_texts_use_are_met_better():
    tokenizer = fast_tokenizer()
    table = torch.randn(len(tokenizer), 12, generator=random(9))
    ctx = context(texts=lambda: ["the cat was good", "the film was good"] * 50)
    ctx.tokenizer = tokenizer
    weights = CompositionalCodes(frequency=1.0)._weights(len(table), ctx)
    the, cat = (tokenizer.convert_tokens_to_ids(word) for word in ("the", "cat"))
    assert (weights[the], weights[cat], weights.min()) == (101, 51, 1)
    assert CompositionalCodes(frequency=0.5)._weights(len(table), ctx)[the] == pytest.approx(101**0.5)
    plain, weighted = (learnt(table, 2, 2, sweeps=3, weights=each) for each in (None, weights))
    assert lost(table, *weighted, weights) < lost(table, *plain, weights)


def test_codes_lie_below_the_entries_and_depend_on_the_seed_alone():
    table = torch.randn(50, 12, generator=random(7))
    first, again = learnt(table, 3, 5), learnt(table, 3, 5)
    assert first[0].dtype == torch.uint8
    assert int(first[0].max()) < 5
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_file_has_the_bits_of_the_closed_form(tmp_path):
    method = CompositionalCodes(codebooks=4, entries=8, **QUICK)
    model = method.attach(tiny(), context())
    artifact.save(model, None, None, tmp_path / "made")
    sizes = inspect(tmp_path / "made" / "model.safetensors").bytes()
    assert sizes[f"{TABLE}.codes"] == 40 * 4 * 3 // 8
    assert sizes[f"{TABLE}.codebooks"] == 4 * 4 * 8 * 16
    loaded = artifact.load(tmp_path / "made").model
    assert torch.equal(loaded.encoder.embeddings.word.weight, model.encoder.embeddings.word.weight)


def test_exported_codes_stay_integers(tmp_path):
    openvino = pytest.importorskip("openvino")
    model = CompositionalCodes(codebooks=4, entries=8, **QUICK).attach(tiny(), context())
    graph = openvino.Core().read_model(export(model, tmp_path))
    constants = [node for node in graph.get_ordered_ops() if node.get_type_name() == "Constant"]
    shapes = {str(node.get_element_type()): list(node.get_output_shape(0)) for node in constants}
    assert [shape for kind, shape in shapes.items() if "uint8" in kind] == [[40, 4]]
    assert [40, 16] not in [list(node.get_output_shape(0)) for node in constants]


def test_training_moves_the_codebooks_and_never_the_codes():
    ctx, seen = context(), []

    def look(step, model):
        seen.append((model.encoder.embeddings.word.codes.clone(), model.get_parameter(f"{TABLE}.codebooks").clone()))

    train(tiny(), CompositionalCodes(codebooks=4, entries=8, **QUICK), ctx, 3, look)
    assert all(torch.equal(codes, seen[0][0]) for codes, _ in seen)
    assert not torch.equal(seen[0][1], seen[-1][1])
    assert 0 < ctx.notes["code_error"] < 1


def test_codes_of_codes_are_refused():
    model = CompositionalCodes(codebooks=2, entries=4, **QUICK).attach(tiny(), context())
    with pytest.raises(RecipeError, match="embed/compositional_codes: the token table has codes in place of vectors"):
        CompositionalCodes().attach(model, context())
