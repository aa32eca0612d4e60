"""All private names of other packages that this package uses, each because there is no public way around it.

| name | of | needed |
| --- | --- | --- |
| `_sample`, `_beam_search` | transformers | A callable for `custom_generate=` stands in for a decoding loop. To decode as `generate()` does with one more processor, or block by block, it calls that loop. |
| `_version` | torch | A reward model may be trained between two calls of `generate()`. What it has read is valid only for the weights that read it. |
| `_attn_implementation` | transformers | A probe's result holds for one kind of attention. Configurations tell theirs under this name only. |
| `_is_accelerate_prepared` | accelerate | `Trainer.evaluate` before `Trainer.train` marks the bare model as prepared, and training then takes it for wrapped: several processes would not share their gradients. |

A test fails if one of them is gone, or if another one is used.
"""  # noqa: E501  a table

from __future__ import annotations

from typing import Any

__all__ = ["ACCELERATE_MARK", "BEAM_LOOP", "SAMPLING_LOOP", "attention_kind", "forget_preparation", "version_of"]

SAMPLING_LOOP = "_sample"
BEAM_LOOP = "_beam_search"
ACCELERATE_MARK = "_is_accelerate_prepared"


def attention_kind(model: Any) -> str | None:
    """The attention implementation of a model, such as `"sdpa"`."""
    return getattr(model.config, "_attn_implementation", None)


def forget_preparation(model: Any) -> None:
    """Lets accelerate prepare a model for training that it has prepared for evaluation."""
    model.__dict__.pop(ACCELERATE_MARK, None)


def version_of(tensor: Any) -> int:
    """A number that grows with every change of a tensor's values."""
    return 0 if tensor.is_inference() else tensor._version  # those of inference mode have none
