"""Images and labels: one format, its checks, and the datasets that can be made."""
