"""Versions of installed packages, as reports state them."""

import importlib.metadata
from collections.abc import Sequence

NOT_INSTALLED = "not installed"


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """Returns the version of each package by its name on PyPI, NOT_INSTALLED where it is missing; imports none."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED
