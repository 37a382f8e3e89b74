"""Why a hit is one: what each stage says of it, and what its regions, seconds, bands and words add."""
