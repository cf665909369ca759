"""Looks at what is there: do assets fit, and does a run hold what was committed?"""
