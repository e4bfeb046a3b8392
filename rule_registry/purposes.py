"""The purposes that lists of rule sets group them by, in order."""

SHARP = "sharp maps of what makes one class different (absLRP)"
FAITHFUL = "maps that follow what the model depends on, in one pass"
TRANSFORMERS = "attention, as published"
COMPOSITES = "convolutional networks, as composites of LRP rules"
LRP = "one LRP rule for all layers, to study it"
GRADIENTS = "gradients and their relatives, to compare with"
PUBLISHED = "the authors' code of absLRP, to reproduce published maps"

PURPOSES = (SHARP, FAITHFUL, TRANSFORMERS, COMPOSITES, LRP, GRADIENTS, PUBLISHED)
OTHERS = "others"
"""The last group: rule sets that say nothing of it."""
