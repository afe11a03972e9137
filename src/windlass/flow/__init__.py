"""Jobs that belong together: one after the other (chain), side by side (group), as many as there are (batch).

All of it is joins of the engines (``core.join``) and options of calls; nothing here runs, claims or decides.
"""
