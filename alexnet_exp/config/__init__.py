"""Provides the configuration: its schema, composing it from `conf/`, validating it and explaining what is wrong."""
