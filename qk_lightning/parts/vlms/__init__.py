"""Multimodal language models: one file a part; inputs, patches and the small maker beside them."""
