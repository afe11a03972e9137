"""The processes of one ``windlass worker``: who starts, watches and ends whom, and what they say to each other."""
