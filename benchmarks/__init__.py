"""Speed of this project beside others', and its limits: see README.md."""
