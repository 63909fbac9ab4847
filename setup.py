"""Packaging: a plain src layout; src/reedbed/ links to the rooms at the top (see docs/architecture.md)."""

from pathlib import Path

from setuptools import find_packages, setup

VERSION = "0.1.0"

setup(
    name="reedbed",
    version=VERSION,
    description="Distributed object store with erasure coding for people who compute in Python",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"reedbed": ["py.typed"], "reedbed.protos": ["*.proto", "*.pyi"]},
    install_requires=[
        "cffi>=1.16",
        "click>=8.1",
        "google-crc32c>=1.6",
        "grpcio>=1.75",
        "lmdb>=1.5",
        "msgspec>=0.19",
        "protobuf>=6.31",
        "pyeclib>=1.8",
        "rich>=13.9",
        "uvloop>=0.21; sys_platform != 'win32'",
    ],
    extras_require={"all": ["hdrhistogram>=0.10"], "bench": ["hdrhistogram>=0.10"]},
    entry_points={"console_scripts": ["reedbed=reedbed.cli.main:main"]},
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Typing :: Typed",
    ],
)
