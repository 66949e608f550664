"""The modules for the JVM, built and tested against real services."""
