"""Hands settings.ini, the only source of metadata, to setuptools."""
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).resolve().parent
ini = ConfigParser(delimiters=["="])
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
lib = cfg["lib_name"]
extras = {k.removesuffix("_requirements"): cfg[k].split() for k in cfg if k.endswith("_requirements")}
extras["all"] = sorted({r for k, v in extras.items() if k not in ("dev", "docs") for r in v})
status = {"2": "2 - Pre-Alpha", "3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}[cfg["status"]]


EXAMPLE_LOGS = ("trlx_logs/complete", "trlx_logs/interrupted", "trlx_logs/text_only", "trlx_logs/tokenizer",
                "trl_logs/dense", "logs/jsonl", "logs/open_instruct", "logs/prime_rl_turns", "logs/verl_v1")


class BuildPy(build_py):
    """Puts the experiment notebooks into the package, so that `ad_distill run` works without a checkout, and the logs
    that the guide to RLHF logs reads."""

    def run(self):
        super().run()
        if self.editable_mode: return  # a checkout runs the notebooks from nbs/
        dest = Path(self.build_lib) / lib / "experiments" / "notebooks"  # the package `experiments` stays
        shutil.rmtree(dest, ignore_errors=True)
        dest.mkdir(parents=True)
        for nb in sorted((here / cfg["nbs_path"]).glob("exp_*.ipynb")): shutil.copyfile(nb, dest / nb.name)
        logs = Path(self.build_lib) / lib / "example_logs"
        shutil.rmtree(logs, ignore_errors=True)
        for folder in EXAMPLE_LOGS: shutil.copytree(here / "tests/data" / folder, logs / folder)


setup(
    name=lib,
    version=cfg["version"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    author_email=cfg["author_email"],
    license={"apache2": "Apache-2.0"}[cfg["license"]],
    license_files=["LICENSE"],
    classifiers=[
        f"Development Status :: {status}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Programming Language :: Python :: 3",
    ],
    packages=find_packages(include=[lib, f"{lib}.*"]),
    package_data={lib: ["*.json", "*.txt", "py.typed", "rlhf/stories/*.parquet", "rlhf/reviews/*.txt",
                        "experiments/*.parquet"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split()},
    cmdclass={"build_py": BuildPy},
    zip_safe=False,
)
