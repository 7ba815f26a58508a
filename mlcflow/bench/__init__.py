"""Measuring a model beside what people would use instead.

``compete.py`` lets the sides run in turn, ``worker.py`` is the process of one side, ``sides/``
has a file a side, ``reference.py`` says what is right, ``workloads.py`` what to measure.
"""
