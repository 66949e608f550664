"""The environment without Docker: the same servers, from the same templates, as plain processes under supervisord."""
