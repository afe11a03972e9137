"""Its place makes the helper modules beside it importable: ``servers``, ``proxy``."""
