"""Data: what a world offers, in which order it is trained on, and how it becomes a batch.

sample.py is the schema; worlds/ holds one world a file; mixture.py the batch order;
collate.py and module.py the way to a device; latent_cache.py images encoded once.
"""
