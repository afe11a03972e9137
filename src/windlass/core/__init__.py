"""Row 1: what every row uses. Values, rules and decisions; it knows no engine and no application.

Two of its modules touch the machine, and do nothing else: ``clock`` and ``files``.
"""
