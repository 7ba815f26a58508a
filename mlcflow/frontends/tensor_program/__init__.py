"""Tensor programs written as Python loops: each loop nest becomes a linalg operation.

``mlcflow.language`` holds the words. In the order data flows: ``source``, ``parse`` with
``statements``, ``store`` and ``expressions`` (Python to loop nests), ``check``, ``emit`` (loop
nests to linalg). ``to_python`` goes the other way.
"""
