"""Installation: the packages, what they need, and the command `tinygrad-char`."""

import re
import shutil
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "tinygrad_char/__init__.py").read_text("utf-8"), re.M
)[1]

FOLDERS = {  # of the packages: beside each other, not inside each other
    "tinygrad_char": "tinygrad_char",
    "tinygrad_char.kernels": "kernels",
    "tinygrad_char.models": "models",
    "tinygrad_char.benchmarks": "benchmarks",
}
PACKAGES = sorted(
    ".".join([name, *file.parent.relative_to(ROOT / folder).parts])
    for name, folder in FOLDERS.items()
    for file in (ROOT / folder).glob("**/__init__.py")
)
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")
"""Whether one build serves later versions of Python, too: without a GIL there is no such thing."""
SOURCES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("kernels/**/*.c"))
HEADERS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("kernels/**/*.h"))
KERNELS = Extension(
    "tinygrad_char.kernels.cpu._c",
    sources=SOURCES,
    depends=HEADERS,
    include_dirs=["kernels/cpu"],
    py_limited_api=LIMITED,
    define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED else [],
    # Nothing that changes what infinities and NaN do, or the floating-point state of the process;
    # no contraction, so that AdamW's digits are those of its reference.
    extra_compile_args=[
        "-O3",
        "-std=c11",
        "-fopenmp-simd",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-ffp-contract=off",
    ],
    optional=True,  # without a compiler the references in NumPy serve
)


class BuildPackages(build_py):
    """Copies the packages into an empty folder: what an earlier build left is not installed.

    Only a folder in `build/` is emptied: one that was named may hold anything.
    """

    def run(self):
        folder = Path(self.build_lib).resolve()
        if not self.editable_mode and folder.parent == ROOT.resolve() / "build":
            shutil.rmtree(folder, ignore_errors=True)
        super().run()


TEST = [
    "safetensors>=0.7",  # what others read checkpoints with
    "setuptools>=77.0.3",  # for the archives that carry the licence
    "pytest>=8.0",
    "hypothesis>=6.151",
    "pytest-timeout>=2.3.1",
    "pytest-xdist>=3.6.1",
    "ml-dtypes>=0.5",
]

setup(
    name="tinygrad-char",
    version=VERSION,
    description="An autograd engine on NumPy and CuPy from scratch, and a character GPT on it",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="the tinygrad_char authors",
    license_expression="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    ext_modules=[KERNELS],
    package_dir=FOLDERS,
    packages=PACKAGES,
    package_data={
        "": ["*.c", "*.h", "*.cu", "*.cuh", "*.json", "*.md", "*.pyi", "py.typed"],
        "tinygrad_char.kernels.cuda_on_cpu.runner": ["runtime/*"],
    },
    # Links to the files, so that nothing but `tinygrad_char` can be imported from the checkout.
    options={
        "editable_wheel": {"mode": "strict"},
        **({"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {}),
    },
    cmdclass={"build_py": BuildPackages},
    install_requires=[
        "numpy>=2.1",
        "tyro>=1.0.14",
        "rich>=13.9",
        "pooch>=1.8",
        "matplotlib>=3.9",
        "threadpoolctl>=3.5",
        "filelock>=3.16.1",
        "charset-normalizer>=3.4",
    ],
    extras_require={
        "cuda12": ["cupy-cuda12x[ctk]>=14", "ml-dtypes>=0.5"],
        "cuda13": ["cupy-cuda13x[ctk]>=14", "ml-dtypes>=0.5"],
        "parity": ["torch>=2.6"],
        "test": TEST,
        "dev": [*TEST, "ruff>=0.9", "mypy>=1.14"],
    },
    entry_points={"console_scripts": ["tinygrad-char = tinygrad_char.models.__main__:main"]},
)
