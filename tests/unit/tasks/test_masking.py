import numpy as np

from bertpress.tasks.masking import IGNORED, Masking


def test_shares_of_bert():
    rule = Masking(mask_id=4, vocabulary=1000, special=frozenset({0, 2, 3, 4}), share=0.15)
    ids = np.concatenate([[2], np.full(20000, 77), [3]]).astype(np.int32)
    masked, labels = rule(ids, 0, 0)
    chosen = labels != IGNORED
    assert chosen.sum() == 3000
    assert not chosen[[0, -1]].any()
    assert (labels[chosen] == 77).all()
    assert (masked[~chosen] == ids[~chosen]).all()
    assert abs((masked[chosen] == 4).mean() - 0.8) < 0.03
    assert abs((masked[chosen] == 77).mean() - 0.1) < 0.03


def test_masks_depend_on_seed_epoch_and_index_alone():
    rule = Masking(4, 1000, frozenset(), 0.3)
    ids = np.arange(100, dtype=np.int32)
    draws = {(index, epoch): rule(ids, index, epoch)[1].tobytes() for index in (0, 1) for epoch in (0, 1)}
    assert len(set(draws.values())) == 4
    assert rule(ids, 1, 1)[1].tobytes() == draws[1, 1]
    assert Masking(4, 1000, frozenset(), 0.3, seed=1)(ids, 1, 1)[1].tobytes() != draws[1, 1]


def test_short_texts():
    rule = Masking(4, 1000, frozenset({2, 3}), 0.15)
    assert (rule(np.array([2, 9, 3], np.int32), 0, 0)[1] != IGNORED).sum() == 1
    assert (rule(np.array([2, 3], np.int32), 0, 0)[1] == IGNORED).all()
