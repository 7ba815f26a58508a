"""The packages that mlcflow declares, and what of them is installed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

_REQUIREMENT = re.compile(r"""([\w.-]+)([^;\[]*)(?:;.*extra\s*==\s*["']([\w-]+)["'])?$""")
_DISTRIBUTIONS = {"elftools": "pyelftools", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Package:
    """A requirement of mlcflow. ``extra``: empty if it always is one. ``installed``: a version."""

    name: str
    wanted: str
    extra: str
    installed: str | None

    @property
    def fits(self) -> bool:
        """Installed, and of the exact version where mlcflow asks for one."""
        if self.installed is None:
            return False
        exact = self.wanted.removeprefix("==")
        return exact == self.wanted or self.installed.split("+")[0] == exact

    @property
    def command(self) -> str:
        """The command that installs it."""
        return install_command([self])


def install_command(wanted: list[Package]) -> str:
    """The command that installs them all."""
    return " ".join(["pip install", *(f"'{package.name}{package.wanted}'" for package in wanted)])


def packages() -> list[Package]:
    """What the metadata of the installed mlcflow declares, needed ones first."""
    found: dict[str, Package] = {}
    for text in metadata.requires("mlcflow") or []:
        match = _REQUIREMENT.match(text.strip())
        if match and match[1] != "mlcflow":  # an extra of ours that holds another
            name, wanted, extra = match[1], match[2].strip(), match[3] or ""
            found.setdefault(name, Package(name, wanted, extra, _version(name)))
    return sorted(found.values(), key=lambda package: package.extra != "")


def of_import(name: str) -> Package | None:
    """The package that an ``import`` of ``name`` needs, if it is one that mlcflow declares."""
    module = name.split(".")[0]
    distribution = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    return next((package for package in packages() if package.name == distribution), None)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
