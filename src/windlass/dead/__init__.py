"""Row 4: dead letters: the list with its groups, moving jobs back at a rate, and the lines of an export."""
