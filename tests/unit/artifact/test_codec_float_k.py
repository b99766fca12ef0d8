"""Every code of every format, against the value that its bits spell."""

import pytest
import torch

from bertpress.artifact.codecs import Packed, Stored, TensorSpec, spec_of
from bertpress.artifact.codecs.float_k import FloatK, in_float

FORMATS = [(bits, exponent) for bits in range(2, 9) for exponent in range(1, bits)]


def spelled(code, bits, exponent_bits, bias):
    """The value of a code, read from the text of its bits."""
    text = f"{code:0{bits}b}"
    sign, exponent, mantissa = text[0], text[1 : 1 + exponent_bits], text[1 + exponent_bits :]
    if "1" not in text[1:]:
        return 0.0
    fraction = sum(2.0**-i for i, bit in enumerate(mantissa, start=1) if bit == "1")
    return (-1 if sign == "1" else 1) * (1 + fraction) * 2.0 ** (int(exponent, 2) + bias)


@pytest.mark.parametrize(("bits", "exponent_bits"), FORMATS)
@pytest.mark.parametrize("bias", [-126, -9, 0])
def test_all_codes(bits, exponent_bits, bias):
    values = torch.tensor([spelled(code, bits, exponent_bits, bias) for code in range(2**bits)])
    codes = torch.arange(2**bits, dtype=torch.uint8)
    codec = FloatK(bits=bits, exponent_bits=exponent_bits)
    parts = {"bias": torch.tensor([bias], dtype=torch.int8)}
    assert torch.equal(codec.decode(parts | {"values": codes}, spec_of(values)), values)
    back = codec.encode(values, parts)["values"]
    codes[2 ** (bits - 1)] = 0  # a sign alone is written as the one zero
    assert torch.equal(back, codes)
    stored = in_float(bits, exponent_bits, bias)
    packed = stored.encode(values)
    assert sum(part.nbytes for part in packed.parts.values()) == -(-(2**bits) * bits // 8) + 1
    assert {name: spec_of(part) for name, part in packed.parts.items()} == stored.layout(spec_of(values))
    assert torch.equal(stored.decode(packed, spec_of(values)), values)


def test_codes_by_hand():
    stored = Stored((FloatK(bits=4, exponent_bits=2),), {"bias": torch.tensor([-1], dtype=torch.int8)})
    weight = torch.tensor([[0.0, 0.75, 1.0], [-1.5, 6.0, -0.0]])
    assert stored.encode(weight).parts["values"].tolist() == [[0, 1, 2], [8 + 3, 7, 0]]


def test_other_values_do_not_come_back():
    stored = in_float(4, 2, -1)
    for value in (0.5, 0.8, 7.0, 1e30, float("inf"), float("nan"), 1e-30):
        weight = torch.tensor([value])
        assert not torch.equal(stored.decode(stored.encode(weight), spec_of(weight)), weight)


@pytest.mark.parametrize("bias", [-128, -127, 121, 127])
def test_a_bias_outside_of_float32_is_refused(bias):
    parts = {"bias": torch.tensor([bias], dtype=torch.int8), "values": torch.ones(2, dtype=torch.uint8)}
    stored = Stored((FloatK(bits=8, exponent_bits=3),), {"bias": parts["bias"]})
    with pytest.raises(ValueError, match=rf"float_k: bias=\[{bias}\] must be one number in -126\.\.120"):
        stored.decode(Packed(parts, ({},)), TensorSpec(torch.float32, (2,)))
    with pytest.raises(ValueError, match="float_k: bias"):
        stored.encode(torch.zeros(2))


def test_the_largest_bias_is_finite():
    stored = in_float(8, 3, 120)
    weight = torch.tensor([2.0**127 * 1.9375])
    assert torch.equal(stored.decode(stored.encode(weight), spec_of(weight)), weight)


def test_a_code_without_a_value_is_refused():
    parts = {"bias": torch.zeros(1, dtype=torch.int8), "values": torch.tensor([16], dtype=torch.uint8)}
    with pytest.raises(ValueError, match="float_k: code 16 must be below 16"):
        FloatK(bits=4, exponent_bits=2).decode(parts, TensorSpec(torch.float32, (1,)))


def test_a_sign_needs_a_bit():
    with pytest.raises(ValueError, match="exponent_bits=4 must be below bits=4"):
        FloatK(bits=4, exponent_bits=4)
    with pytest.raises(ValueError, match="packs float32, got uint8"):
        FloatK(bits=4, exponent_bits=3).layout(TensorSpec(torch.uint8, (1,)), {})
