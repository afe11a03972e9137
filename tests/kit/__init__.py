"""What tests share that start processes or wait for something: ``waiting`` and ``fleet``. Look here first."""
