"""Features and how good they are: k-NN and linear probes of training and of unseen classes."""
