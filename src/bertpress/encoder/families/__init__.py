"""The model families that can be imported from transformers and exported to it, one small file each."""

from bertpress.encoder.families import albert, bert, distilbert, electra, mobilebert, mpnet, roberta
from bertpress.encoder.families.base import Family
from bertpress.errors import ModelError

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for module in (bert, roberta, distilbert, electra, albert, mpnet, mobilebert)
    for family in module.MEMBERS
}
"""Families by the ``model_type`` of config.json."""


def family_of(model_type: object) -> Family:
    """The family of a ``model_type``.

    Raises:
        ModelError: it is not supported; lists those that are.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ModelError(f"model_type={model_type!r} is not supported (supported: {', '.join(FAMILIES)})")
    return FAMILIES[model_type]
