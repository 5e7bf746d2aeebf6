"""Many Views: a reproducible study of SimCLR with 2 and 8 views per image."""
