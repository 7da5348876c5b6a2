"""The worker runtime: what a team runs on its worker machines (CONTRACT section 7)."""
