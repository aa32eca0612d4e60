"""From preference rows to a trained reward model (needs the `train` extra)."""
