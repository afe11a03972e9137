"""Row 6: the ``windlass`` command. Presentation only: reads through the Inspector, never claims or settles."""
