"""The command `check`: a deployment seen from outside, with a caller's own credentials.

command     the command, and the order of its checks
way         the caller's credentials, and the way to each server: network and TLS
service     who answers: version, clock, store age, replicas, and what the caller may do there
clusters    the health of regions, and the probe
"""
