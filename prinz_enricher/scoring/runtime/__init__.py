"""The life of the versions in use: workers that are started, fed, replaced, and stopped."""
