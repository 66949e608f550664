"""Checks of a deployment before it serves: settings, machine, servers, models. None of them changes anything."""
