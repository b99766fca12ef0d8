from bertpress import tasks


def test_public_names_exist_and_are_sorted():
    assert tasks.__all__ == sorted(tasks.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert all(hasattr(tasks, name) for name in tasks.__all__)
