"""From logits and rewards to guided logits, inside generate()."""
