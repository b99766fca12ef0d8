import json

import pytest
import torch
from PIL import Image
from rich.console import Console

from bertpress.encoder.blueprint import (
    AttentionSpec,
    Blueprint,
    BottleneckSpec,
    EmbeddingSpec,
    HeadSpec,
    LayerSpec,
    RelativeSpec,
    uniform,
)
from bertpress.encoder.costs import COMPONENTS
from bertpress.encoder.model import build_model
from bertpress.encoder.slices import ranked
from bertpress.errors import ModelError
from bertpress.measure.components import peak_added_bytes, record, replay
from bertpress.measure.picture import panels, write_png
from bertpress.measure.profile import breakdown, profile, random_inputs
from bertpress.measure.table import breakdown_table

CPU = torch.device("cpu")
HEAD = HeadSpec(kind="sequence", labels=3)


def plain():
    return uniform(layers=2, hidden_size=32, heads=4, ffn=64, vocabulary=100, positions=40, head=HEAD)


def uneven():
    def layer(heads, *ffn):
        return LayerSpec(attention=AttentionSpec(heads=heads, head_size=8, value_size=4), ffn=ffn)

    return Blueprint(
        hidden_size=32,
        embeddings=EmbeddingSpec(vocabulary=100, size=16, positions=40, project="after"),
        relative=RelativeSpec(heads=4),
        layers=(layer((0, 2, 3), 64), layer((1,), 7, 9), layer((), 0)),
        head=HeadSpec(kind="token", labels=5),
    )


def shared():
    attention = AttentionSpec(heads=(0, 1), head_size=16, value_size=16)
    first = LayerSpec(attention=attention, ffn=(64,))
    again = LayerSpec(attention=attention, ffn=(64,), attention_from=0, ffn_from=0)
    return Blueprint(
        hidden_size=32,
        embeddings=EmbeddingSpec(vocabulary=100, size=32, positions=40),
        layers=(first, again, again),
    )


def bottleneck():
    layer = LayerSpec(
        attention=AttentionSpec(heads=(0, 1), head_size=8, value_size=8),
        ffn=(32, 32),
        norm="affine",
        bottleneck=BottleneckSpec(size=16),
    )
    return Blueprint(
        hidden_size=32,
        embeddings=EmbeddingSpec(vocabulary=100, size=8, window=3, project="tokens", norm="affine"),
        layers=(layer, layer),
        head=HeadSpec(kind="masked_lm"),
    )


def factored():
    layer = plain().layers[0]
    for part in ("attention.query", "attention.value", "attention.output", "ffn.0.outer"):
        layer = ranked(layer, part, 7)
    return plain().replace(layers=(layer, plain().layers[1]))


SHAPES = {"plain": plain, "uneven": uneven, "shared": shared, "bottleneck": bottleneck, "factored": factored}


@pytest.mark.parametrize("shape", SHAPES)
def test_closed_form_macs_are_what_torch_counts(shape):
    figures = profile(build_model(SHAPES[shape]()), tokens=24, batch=2, rounds=1, warm=0, threads=1)
    assert figures["macs_counted"] == pytest.approx(figures["macs"], rel=0.01)
    for name, component in figures["components"].items():
        assert component["macs_counted"] == pytest.approx(component["macs"], rel=0.01), name


@pytest.mark.parametrize("shape", SHAPES)
def test_the_components_are_the_whole_pass(shape):
    """Every module with a weight is run by the replay of one component, as often as in a real pass."""
    model = build_model(SHAPES[shape]())
    inputs = random_inputs(model.blueprint, 12, 1, 0, "cpu")
    direct = {"encoder.relative", "head"}  # watched themselves: their hooks do not run when they are replayed
    seen = {name: 0 for name, module in model.named_modules() if module._parameters and name not in direct}

    def count(name):
        def hook(*_):
            seen[name] += 1

        return hook

    hooks = [module.register_forward_pre_hook(count(name)) for name, module in model.named_modules() if name in seen]
    with torch.no_grad():
        calls = record(model, inputs)
        whole = dict(seen)
        seen.update(dict.fromkeys(seen, 0))
        for component in COMPONENTS:
            replay(calls[component])
        assert seen == whole
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(calls["ffn"][-1](), model(**inputs).last_hidden_state, rtol=0, atol=0)


def test_recording_leaves_no_trace():
    model = build_model(plain())
    inputs = random_inputs(model.blueprint, 12, 1, 0, "cpu")
    with torch.no_grad():
        before = model(**inputs).logits
        record(model, inputs)
        assert torch.equal(model(**inputs).logits, before)
    assert all("forward" not in vars(module) for module in model.modules())
    assert all(not {"project", "mix", "transform"} & vars(module).keys() for module in model.modules())


def test_bert_base_shape_by_hand():
    """Section 2 of the survey: 109.48 M parameters, 23.84 M of them embeddings."""
    blueprint = uniform(layers=12, hidden_size=768, heads=12, ffn=3072, head=HeadSpec(kind="sequence", labels=0))
    parts = breakdown(blueprint, 256)
    total = sum(part["parameters"] for part in parts.values())
    assert total == 109_482_240
    assert parts["embeddings"]["parameters"] == 23_837_184
    assert round(100 * parts["embeddings"]["parameters"] / total, 1) == 21.8
    assert parts["attention_in"]["macs"] == 3 * parts["attention_out"]["macs"] == 3 * 12 * 256 * 768 * 768
    assert parts["attention"]["macs"] == 12 * 2 * 256 * 256 * 768
    assert parts["ffn"]["macs"] == 12 * 256 * 2 * 768 * 3072


def test_peak_memory_of_a_known_job():
    x = torch.ones(1000, 256)

    def job():
        a = x + 1  # 1,024,000 bytes
        b = a * 2  # and as many again: the peak
        del a
        return (b[:10] + 1).sum()

    assert peak_added_bytes(job, CPU) == pytest.approx(2 * 1_024_000, rel=0.01)


@pytest.fixture(scope="module")
def figures():
    return profile(build_model(plain()), name="tiny", tokens=(16, 8), rounds=3, warm=1, threads=1)


def test_figures_are_json_and_add_up(figures):
    assert json.loads(json.dumps(figures)) == figures
    assert [at["tokens"] for at in figures["lengths"]] == [16, 8]
    assert figures["tokens"] == 16
    for at in figures["lengths"]:
        total = (
            sum(part["latency_ms"]["median"] for part in at["components"].values()) + at["unattributed"]["latency_ms"]
        )
        assert total == pytest.approx(at["latency_ms"]["median"], abs=1e-3)
        assert len(at["latency_ms"]["samples"]) == 3
    assert sum(part["parameters"] for part in figures["components"].values()) == figures["parameters"]
    assert figures["flops"] == 2 * figures["macs"]


def test_table(figures):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(breakdown_table(figures))
    text = console.export_text()
    assert "not attributed" in text
    assert "tiny: 16 tokens, batch 1" in text
    console.file.close()


def test_panels_and_png(figures, tmp_path):
    shown = panels(figures)
    assert [len(panel.series) for panel in shown] == [1, 2, 2, 2]
    assert shown[1].series[0].values[4] == 2 * 16 * 2 * 32 * 64 / 1e6
    write_png(figures, tmp_path / "picture.png", width=700, height=450)
    with Image.open(tmp_path / "picture.png") as image:
        assert image.size == (700, 450)
        colours = {colour for count, colour in image.getcolors(maxcolors=2**24) if count > 50}
    assert {(0x42, 0x69, 0xD0), (0xEF, 0xB1, 0x18)} <= colours  # bars of both lengths


def test_too_long_an_input():
    with pytest.raises(ModelError, match="tokens=41 must be at most 40"):
        profile(build_model(plain()), tokens=41, rounds=1)


def test_numbers_below_one():
    with pytest.raises(ValueError, match=">= 1"):
        profile(build_model(plain()), tokens=0)
