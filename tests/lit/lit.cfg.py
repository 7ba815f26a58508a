"""How lit runs the tests below this directory: `lit tests/lit`, or as a part of `pytest`."""

import os
import sys
import sysconfig
import tempfile
from pathlib import Path

import lit.formats

# ruff: noqa: F821 (lit defines `config` and `lit_config` for this file)

config.name = "mlcflow"
config.test_format = lit.formats.ShTest(execute_external=False)
config.suffixes = {".mlir", ".py"}
config.excludes = {"lit.cfg.py"}
config.test_source_root = str(Path(__file__).parent)
# Outputs stay out of the source tree; pytest names a directory that it removes again.
config.test_exec_root = lit_config.params.get("outputs") or tempfile.mkdtemp(prefix="mlcflow-lit-")

# `mlcflow` and `filecheck` are those of the interpreter that runs lit.
scripts = sysconfig.get_path("scripts")
config.environment["PATH"] = os.pathsep.join([scripts, config.environment.get("PATH", "")])
config.substitutions.append(("%python", sys.executable))
