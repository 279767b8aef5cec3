"""Training objectives: what is mixed, what is predicted, how it is sampled."""
