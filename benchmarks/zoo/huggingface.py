"""Transformers' image classifiers, its two towers of pictures and words, and text, each from a small configuration.

Nothing is downloaded. Every model has its architecture's own modules; fewer and narrower ones than trained models have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.zoo.entries import Entry, Subject
from benchmarks.zoo.weights import settle
from relprop.extras import extra

ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {"image_size": 32, "patch_size": 8}
WINDOWS = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
STAGES = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 2, 1]}
PYRAMID = {"hidden_sizes": [16, 32, 40, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 5, 8]}
CLASSES, WORDS, LENGTH, END = 10, 100, 12, 99

TOWERS = {"vision_config": ENCODER | PATCHES, "text_config": ENCODER | {"vocab_size": WORDS}}

CLASSIFIERS: Mapping[str, Mapping[str, Any]] = {
    "ViT": ENCODER | PATCHES,
    "DeiT": ENCODER | PATCHES,
    "Beit": ENCODER | PATCHES | {"use_relative_position_bias": True},
    "Swin": WINDOWS,
    "Swinv2": WINDOWS,
    "ConvNext": STAGES | {"image_size": 64},
    "ConvNextV2": STAGES | {"image_size": 64},
    "Dinov2": ENCODER | PATCHES,
    "ResNet": STAGES | {"embedding_size": 16},
    "MobileViT": {
        "image_size": 64,
        "hidden_sizes": [24, 32, 40],
        "neck_hidden_sizes": [8, 12, 16, 24, 32, 40, 64],
    },
    "Siglip": TOWERS,
    "Bit": STAGES | {"embedding_size": 16, "num_groups": 8},
    "CLIP": TOWERS,
    "Cvt": {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]},
    "Data2VecVision": ENCODER | PATCHES | {"use_relative_position_bias": True},
    "Dinov2WithRegisters": ENCODER | PATCHES,
    "DonutSwin": WINDOWS,
    "EfficientNet": {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    "FocalNet": {
        "image_size": 64,
        "embed_dim": 16,
        "hidden_sizes": [32, 32],
        "depths": [1, 1],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
    },
    "HGNetV2": {
        "embedding_size": 16,
        "hidden_sizes": [32, 48, 64, 96],
        "stem_channels": [3, 8, 16],
        "stage_in_channels": [16, 32, 48, 64],
        "stage_mid_channels": [8, 16, 16, 24],
        "stage_out_channels": [32, 48, 64, 96],
        "stage_num_blocks": [1, 1, 1, 1],
        "stage_numb_of_layers": [1, 1, 2, 1],
    },
    "Hiera": {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]},
    "IJepa": ENCODER | PATCHES,
    "Levit": {
        "image_size": 64,
        "hidden_sizes": [32, 48, 64],
        "num_attention_heads": [2, 3, 4],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "MetaClip2": TOWERS,
    "MobileNetV1": {"image_size": 64, "depth_multiplier": 0.25},
    "MobileNetV2": {"image_size": 64, "depth_multiplier": 0.35},
    "MobileViTV2": {"image_size": 64, "width_multiplier": 0.25, "n_attn_blocks": [1, 1, 1]},
    "PoolFormer": STAGES,
    "PPLCNet": {"scale": 0.25},
    "Pvt": PYRAMID | {"image_size": 64},
    "PvtV2": PYRAMID | {"image_size": 64},
    "RegNet": STAGES | {"embedding_size": 16, "groups_width": 8},
    "Segformer": PYRAMID,
    "SwiftFormer": {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [16, 24, 32, 48]},
    "TextNet": {"image_size": [64, 64], "stem_out_channels": 16, "hidden_sizes": [16, 16, 24, 32, 48]},
    "ViTMSN": ENCODER | PATCHES,
}
"""What is set in the configurations of ``<name>ForImageClassification``.

Left out are Dinat (its attention is another package's, built for a GPU), ImageGPT (it reads colours as tokens),
Perceiver (it takes pictures of one size, of 50,000 pixels), ShieldGemma2 (a language model of billions), Siglip2 (it
takes patches and how many there are), TimmWrapper (timm's own models).
"""

OUTPUTS = {"PPLCNet": "last_hidden_state"}
"""What scores are called that are not called logits."""


def entries() -> list[Entry]:
    """Return all of them."""
    made: dict[str, tuple[str, Callable[[int], Subject]]] = {
        **{f"{name}ForImageClassification": (name, partial(classify, name)) for name in CLASSIFIERS},
        "SiglipVisionModel": ("Siglip", siglip_tower),
        "CLIPModel zero-shot": ("CLIP", clip_zero_shot),
        "CLIPModel similarity": ("CLIP", clip_similarity),
        "BertForSequenceClassification": ("Bert", partial(read, "Bert", {})),
        "DistilBertForSequenceClassification": (
            "DistilBert",
            partial(read, "DistilBert", {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}),
        ),
    }
    return [Entry("huggingface", name, family, build) for name, (family, build) in made.items()]


def classify(name: str, samples: int) -> Subject:
    """Make an image classifier."""
    settings = CLASSIFIERS[name]
    size = settings.get("image_size", PATCHES["image_size"] if settings is TOWERS else 64)
    x = _pictures(samples, size if isinstance(size, int) else size[0])
    model = _make(f"{name}ForImageClassification", f"{name}Config", **settings, num_labels=CLASSES)
    return Subject(settle(model, x), x, options={"output": OUTPUTS.get(name, "logits")})


def siglip_tower(samples: int) -> Subject:
    """Make SigLIP's vision tower; its target is the similarity of a picture's embedding to a given one."""
    model = _make("SiglipVisionModel", "SiglipVisionConfig", **ENCODER, **PATCHES)
    words = torch.randn(1, ENCODER["hidden_size"], generator=torch.Generator().manual_seed(2))
    options = {"output": "pooler_output", "target": partial(similarity_to, words=words)}
    return Subject(settle(model, None), _pictures(samples, PATCHES["image_size"]), options=options)


def similarity_to(embedding: Tensor, *, words: Tensor) -> Tensor:
    """Cosine of each picture's embedding ``(B, D)`` with one of words ``(1, D)``."""
    return F.cosine_similarity(embedding, words)


def clip_zero_shot(samples: int) -> Subject:
    """Make CLIP as a classifier: its classes are seven texts, the same for all pictures."""
    inputs = {"pixel_values": _pictures(samples, PATCHES["image_size"]), "input_ids": _texts(7)}
    return Subject(_clip(), (), inputs, {"output": "logits_per_image"})


def clip_similarity(samples: int) -> Subject:
    """Make CLIP with a text for each picture; its target is how similar they are."""
    inputs = {"pixel_values": _pictures(samples, PATCHES["image_size"]), "input_ids": _texts(samples)}
    return Subject(_clip(), (), inputs, {"target": similarity})


def similarity(output: Any) -> Tensor:
    """Cosine of each picture's embedding ``(B, E)`` with its own text's, ``(B,)``."""
    return F.cosine_similarity(output.image_embeds, output.text_embeds)


def read(name: str, settings: Mapping[str, int], samples: int) -> Subject:
    """Make a classifier of texts, some of which are shorter than others; its embeddings are what is explained."""
    settings = settings or ENCODER
    model = _make(
        f"{name}ForSequenceClassification",
        f"{name}Config",
        **settings,
        vocab_size=WORDS,
        max_position_embeddings=LENGTH,
        num_labels=CLASSES,
    )
    lengths = LENGTH - torch.arange(samples) % 4
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    inputs = {"input_ids": _texts(samples), "attention_mask": mask}
    return Subject(settle(model, None), (), inputs, {"at": f"{name.lower()}.embeddings", "output": "logits"})


def _clip() -> Any:
    words = {"vocab_size": WORDS, "max_position_embeddings": LENGTH, "bos_token_id": 0, "eos_token_id": END}
    model = _make(
        "CLIPModel",
        "CLIPConfig",
        vision_config=ENCODER | PATCHES | {"projection_dim": 16},
        text_config=ENCODER | words | {"projection_dim": 16},
        projection_dim=16,
    )
    return settle(model, None)


def _make(model: str, config: str, **settings: Any) -> Any:
    with extra("zoo", f"the zoo's {model}"):
        import transformers
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, model)(getattr(transformers, config)(**settings)).eval()


def _pictures(samples: int, size: int) -> Tensor:
    """Return pictures of noise, ``(samples, 3, size, size)``."""
    return torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(1))


def _texts(samples: int) -> Tensor:
    """Return token indices that end with the end token, ``(samples, LENGTH)``."""
    tokens = torch.randint(0, END, (samples, LENGTH), generator=torch.Generator().manual_seed(1))
    tokens[:, -1] = END
    return tokens
