"""Scenes in which each alert is provoked: a fault, the alerts that it sets off, and their runbooks.

`stage` says what a scene works with.
"""
