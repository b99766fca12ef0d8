"""Jobs here, and on a cluster of two workers where Ray is installed."""

import sys
from importlib.util import find_spec

import pytest

from bertpress.errors import UserError
from bertpress.study.plan import Limits
from bertpress.study.spread import here, on_ray


def test_jobs_are_done_in_order_and_failures_gone_round(monkeypatch):
    failures = {"b": {"reason": "took longer than minutes=1", "said": "", "seconds": 60.0}}
    monkeypatch.setitem(here.__globals__, "do_isolated", lambda place, limits, threads: failures.get(place))
    assert list(here(["a", "b", "c"], Limits(minutes=1), 1)) == [("a", None), ("b", failures["b"]), ("c", None)]


def test_without_ray_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"study --ray: ray is not installed; pip install 'bertpress\[ray\]'"):
        list(on_ray(["a"], Limits(), 1, "auto"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray (pip install 'bertpress[ray]')")
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_of_two_workers(tmp_path):
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False)
    places = [tmp_path / name for name in ("one", "two", "three")]
    for place in places:
        place.mkdir()  # without a job, which the worker says in its last line
    done = dict(on_ray([str(place) for place in places], Limits(minutes=5), 1, "local"))
    assert done.keys() == {str(place) for place in places}
    for failure in done.values():
        assert failure["reason"] == "ended with status 1"
