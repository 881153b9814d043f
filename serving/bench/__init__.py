"""`pipeprobe bench`: how fast this machine could score, how fast the service does, and where the difference goes.

frames.py   what is sent: JPEG frames of an inspection's usual size
bound.py    decoding and the session in one process, with no HTTP: what no server can exceed
load.py     a load generator in Python that needs no other tool
report.py   the figures side by side, and what to change
"""
