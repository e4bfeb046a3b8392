"""The names of the authors' code for absLRP and GAE, built on relprop: change the imports, and its calls run.

The authors' modules are one here: ``from abslrp_gae.utils import preprocess_image`` becomes
``from relprop.compat.abslrp_gae import preprocess_image``. What differs is a table in
``relprop/guides/from_abslrp_gae.md``.
"""

from relprop.compat.abslrp_gae.metric import GlobalEvaluationMetric
from relprop.compat.abslrp_gae.relevancy_methods import AbsLRPRelevancyMethod, RelevancyMethod
from relprop.compat.abslrp_gae.rules import AbsLRPRule, ResNetAbsLRPRule, VGGAbsLRPRule, VisionTransformerAbsLRPRule
from relprop.compat.abslrp_gae.utils import (
    NormalizationType,
    normalize_relevance,
    preprocess_image,
    renormalize_images,
    visualize_batch,
)

__all__ = [
    "AbsLRPRelevancyMethod",
    "AbsLRPRule",
    "GlobalEvaluationMetric",
    "NormalizationType",
    "RelevancyMethod",
    "ResNetAbsLRPRule",
    "VGGAbsLRPRule",
    "VisionTransformerAbsLRPRule",
    "normalize_relevance",
    "preprocess_image",
    "renormalize_images",
    "visualize_batch",
]
