"""From prefixes and candidate tokens to rewards."""
