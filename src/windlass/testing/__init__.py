"""What users and engine authors test with.

``conformance`` is the behavioural suite that every engine passes. Nothing here is imported by the library itself.
"""
