"""What ``windlass bench`` measures, with a real worker and a store of its own. Nothing else may import it.

``jobs`` are the jobs, ``apps`` the applications that the worker imports, ``lab`` gives a store and a worker for one
measurement, ``scenarios`` are the measurements.
"""
