"""Row 2: the stores. ``base`` is the contract; each sub-package is one engine and knows no other."""
