"""What M-steps fit beside the weighted likelihood, one file per family of losses."""
