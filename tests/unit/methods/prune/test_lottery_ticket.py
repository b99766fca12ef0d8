"""A tenth of what is left goes, survivors are the first weights bit for bit, masks are nested."""

import pytest
import torch
from short_training import context, tiny, train

from bertpress.encoder.surgery import keep_neurons
from bertpress.errors import RecipeError
from bertpress.methods.masks import mask_of
from bertpress.methods.prune.lottery_ticket import LotteryTicket

METHOD = LotteryTicket()


def fine_tuned(seed=5):
    """The same shape with other weights, as training leaves it."""
    return tiny(seed=seed)


def chosen(model):
    return {name: model.get_parameter(name) != 0 for name in METHOD.weights(model)}


def test_survivors_and_all_other_tensors_are_rewound_bit_for_bit():
    first, model = tiny(), fine_tuned()
    ticket = METHOD.attach(model, context(pretrained=first))
    for name, weight in ticket.unique_weights():
        start = first.get_parameter(name)
        if name in METHOD.weights(model):
            kept = mask_of(ticket, name).kept
            assert torch.equal(weight[kept], start[kept])
            assert not weight[~kept].any()
        else:
            assert torch.equal(weight, start), name


def test_the_smallest_trained_weights_of_all_matrices_go():
    model = fine_tuned()
    ticket = METHOD.attach(model, context(pretrained=tiny()))
    sizes = torch.cat([model.get_parameter(name).detach().abs().flatten() for name in METHOD.weights(model)])
    kept = torch.cat([mask_of(ticket, name).kept.flatten() for name in METHOD.weights(model)])
    assert int(kept.sum()) == round(0.9 * len(sizes))
    assert float(sizes[kept].min()) > float(sizes[~kept].max())


def test_rounds_keep_nine_tenths_of_the_rest_and_masks_are_nested():
    first = tiny()
    model, before = fine_tuned(), chosen(first)
    total = sum(kept.numel() for kept in before.values())
    for turn in range(6):
        model = train(model, METHOD, context(pretrained=first, round=turn), 3)
        after = chosen(model)
        assert abs(sum(int(kept.sum()) for kept in after.values()) - 0.9 ** (turn + 1) * total) <= 1
        assert all(not (after[name] & ~before[name]).any() for name in after)
        assert any(not torch.equal(model.get_parameter(name)[kept], first.get_parameter(name)[kept])
                   for name, kept in after.items()), "what a round leaves is trained"  # fmt: skip
        before = after


def test_a_fresh_last_layer_is_drawn_anew_and_the_pooler_is_not():
    first = tiny()
    made = [LotteryTicket(head="fresh").attach(fine_tuned(), context(pretrained=first)) for _ in range(2)]
    weights = [model.head.classifier.weight.detach() for model in made]
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], first.head.classifier.weight)
    kept = mask_of(made[0], "head.dense.weight").kept
    assert torch.equal(made[0].get_parameter("head.dense.weight")[kept], first.head.dense.weight[kept])


def test_it_can_rewind_to_the_weights_of_a_folder(tmp_path):
    other = tiny(seed=7)
    other.save_pretrained(tmp_path / "other")
    ticket = LotteryTicket(rewind=str(tmp_path / "other")).attach(fine_tuned(), context(pretrained=tiny()))
    name = "encoder.layers.0.ffn.0.inner.weight"
    kept = mask_of(ticket, name).kept
    assert torch.equal(ticket.get_parameter(name)[kept], other.get_parameter(name)[kept])


def test_weights_of_another_shape_are_refused():
    narrow = keep_neurons(fine_tuned(), {(0, 0): list(range(12))})
    message = (
        r"rewind: encoder\.layers\.0\.ffn\.0\.inner\.bias of the model as it was handed in is \[24\], must be \[12\]"
    )
    with pytest.raises(RecipeError, match=message):
        METHOD.attach(narrow, context(pretrained=tiny()))


def test_the_source_and_the_first_weights_stay():
    first, model = tiny(), fine_tuned()
    before = [{name: tensor.clone() for name, tensor in each.state_dict().items()} for each in (first, model)]
    train(model, METHOD, context(pretrained=first), 2)
    for each, state in zip((first, model), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in each.state_dict().items())
